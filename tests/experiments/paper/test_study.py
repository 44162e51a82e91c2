"""Runs and their files: the content of a record, resuming after an interruption, and what invalidates a file."""

import dataclasses
import json
import math
import shutil
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vladva_kit as vk
from experiments.paper import runs, study
from experiments.paper.__main__ import app
from experiments.paper.blind import blind_baselines, likelihood_without_image
from experiments.paper.plan import BASE, CLIP_TUNED, FULL, LONG, SOFT, Experiment, experiment
from experiments.paper.study import run_experiments
from experiments.paper.tables import ADAPTER_OFF, COLUMNS, gain_table, overview, results_table, runs_of, value_of
from vladva_kit.data.pairs import load_pairs
from vladva_kit.models.files import write_json

VARIANTS = (CLIP_TUNED, BASE, SOFT, FULL)  # every kind of run


def without_time(record):
    """A record without the seconds, which differ between equal runs."""
    return {key: value for key, value in record.items() if key != "seconds"}


def plan_run(plan, name, variant):
    """The first run of a variant."""
    return next(one.runs[0] for one in experiment(name, plan).variants if one.name == variant)


@pytest.fixture(scope="module")
def interrupted_and_resumed(small_samples, tmp_path_factory):
    """Four variants of `components`, interrupted in the third run and resumed: requested runs, calls, results."""
    out, calls = tmp_path_factory.mktemp("ablation"), []
    plan = study.Plan(steps=2, batch_size=32, seeds=(0,), n_generation_images=1, n_probe_images=4)
    components = experiment("components", plan)
    four = tuple(variant for variant in components.variants if variant.name in VARIANTS)
    small = Experiment("components", four, tuple(pair for pair in components.comparisons if set(pair) <= set(VARIANTS)))

    def train_and_evaluate(run, cache):
        calls.append(run)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return runs.train_and_evaluate(run, cache)

    def run_study():
        return run_experiments(["components"], plan, out, log=lambda _: None)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runs, "N_EQUALITY_IMAGES", 1)
        patched.setattr(vk, "sample", small_samples.__getitem__, raising=False)
        patched.setattr(study, "EXPERIMENTS", ("components",))
        patched.setattr(study, "experiment", lambda name, plan: small)
        patched.setattr(study, "train_and_evaluate", train_and_evaluate)
        with pytest.raises(KeyboardInterrupt):
            run_study()
        assert not (out / "results.json").exists()
        run_study()
        patched.setattr(study, "train_and_evaluate", None)  # all runs are stored: none may start
        run_study()
    return small.runs(), calls, json.loads((out / "results.json").read_text())


@pytest.fixture
def saved(interrupted_and_resumed):
    return interrupted_and_resumed[2]


def test_interrupted_study_resumes_after_its_last_run(interrupted_and_resumed):
    requested, calls, saved = interrupted_and_resumed
    assert calls == [*requested[:3], *requested[2:]]  # only the interrupted run starts twice
    assert len(saved["runs"]) == 4 and list(saved["experiments"]) == ["components"]


@pytest.mark.parametrize("variant", [CLIP_TUNED, FULL])
def test_repeated_run_gives_equal_numbers(interrupted_and_resumed, small_world, tmp_path, variant):
    requested, _, saved = interrupted_and_resumed
    run = requested[VARIANTS.index(variant)]
    again = write_json(tmp_path / "again.json", runs.train_and_evaluate(run, tmp_path / "cache"))
    assert without_time(json.loads(again.read_text())) == without_time(runs_of(saved, "components", variant)[0])


def test_record_holds_history_measures_and_representations(saved):
    clip, base, soft, full = (runs_of(saved, "components", variant)[0] for variant in VARIANTS)
    assert full["history"]["step"] == [1, 2] and full["adapter_off_equal"] is soft["adapter_off_equal"] is True
    assert full["trainable"]["soft prompt"] and full["trainable"]["LoRA"] and soft["trainable"]["LoRA"] == 0
    assert soft["history"]["next_token"] == [0, 0] and min(full["history"]["next_token"]) > 0
    entropy = full["representations"]["entropy"]
    assert full["effects"].keys() == {"seen", "unseen style"} and full["effects"]["seen"]["image"] > 0
    assert set(entropy) == {"image", "text"} and len(entropy["image"]) == 4
    assert 0 <= full["representations"]["prompt"]["image"]["unchanged"] <= 1
    assert base["representations"]["attention_density"] and "history" not in base
    assert "representations" not in clip and clip["history"]["contrastive"][0] > 0
    for run in (full, clip):
        assert run["validation"]["step"] == [1, 2] and all(0 < loss < 2 for loss in run["validation"]["eval_twin_loss"])
        assert not any(name.startswith("eval_") for name in run["history"])


def test_adapter_off_generation_is_shown_only_where_it_was_measured(saved):
    for column in (column for column in COLUMNS if ADAPTER_OFF in column):
        assert value_of(saved, "components", FULL, column) is not None
        assert [value_of(saved, "components", name, column) for name in (CLIP_TUNED, BASE, SOFT)] == [None] * 3


def test_adapter_off_generation_equals_the_base(saved):
    for column in (column for column in COLUMNS if ADAPTER_OFF in column):
        off = value_of(saved, "components", FULL, column)
        assert off == value_of(saved, "components", BASE, column.replace(ADAPTER_OFF, ""))


def test_equality_check_fails_if_the_adapter_stays_on(small_world, small_plan, monkeypatch):
    monkeypatch.setattr(vk.Embedder, "base", lambda self: nullcontext())
    run = dataclasses.replace(plan_run(small_plan, "components", SOFT), n_generation_images=0, n_probe_images=0)
    assert runs.train_and_evaluate(run)["adapter_off_equal"] is False


def test_tables_have_a_row_per_score_and_a_column_per_variant(saved):
    table = results_table(saved, "components").splitlines()
    assert len(table) == 2 + len(COLUMNS)
    assert table[0].startswith("|  | emoji-clip, fine-tuned | base | + soft prompt |")
    assert len({line.count("|") for line in table}) == 1
    assert "| base → + soft prompt | text → image R@1, seen |" in gain_table(saved, "components")


def test_overview_has_a_row_per_variant_with_both_styles_and_without_intervals(saved):
    heading, _, *lines = overview(saved, "components").splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [*VARIANTS]
    titles = [title.strip() for title in heading.strip("|").split("|")][1:]
    full = dict(zip(titles, lines[-1].strip("| ").split(" | ")[1:], strict=True))
    values = [value_of(saved, "components", FULL, f"text → image R@1, {style}") for style in ("seen", "unseen style")]
    assert full["text → image R@1"] == " / ".join(f"{value.percent:.1f}" for value in values)
    clip = dict(zip(titles, lines[0].strip("| ").split(" | ")[1:], strict=True))
    assert clip["captions true"] == "—" != full["captions true"] and "[" not in "".join(lines)  # it generates nothing


def test_changed_settings_and_weights_start_new_runs(small_plan, tmp_path):
    (run, *_) = experiment("components", small_plan).runs()
    fingerprints = {"emoji-clip": "one", "emoji-llava": "two"}
    path = study._path(tmp_path, run, fingerprints)
    assert study._path(tmp_path, run, {**fingerprints, "emoji-llava": "other"}) == path
    others = [study._path(tmp_path, run, {**fingerprints, "emoji-clip": "other"})]
    others += [
        study._path(tmp_path, dataclasses.replace(run, **{key: 7}), fingerprints) for key in ("steps", "n_groups")
    ]
    assert len({path, *others}) == 4


def test_fingerprint_covers_weights_and_data(small_world, monkeypatch):
    before = study._fingerprint("emoji-clip")
    assert before == study._fingerprint("emoji-clip") != study._fingerprint("emoji-llava")
    other = {**small_world, "winoground_mini": small_world["sugarcrepe_mini"]}
    monkeypatch.setattr(vk, "sample", other.__getitem__)
    assert study._fingerprint("emoji-clip") != before


def test_fingerprint_covers_images_code_and_versions(small_world, tmp_path, monkeypatch):
    fingerprints = [study._fingerprint("emoji-llava")]
    monkeypatch.setattr(study, "versions", lambda: {"torch": "99"})
    fingerprints.append(study._fingerprint("emoji-llava"))
    monkeypatch.setattr(study, "CODE_OF_RUNS", study.CODE_OF_RUNS[:-1])
    fingerprints.append(study._fingerprint("emoji-llava"))
    copy = shutil.copytree(small_world["winoground_mini"], tmp_path / "winoground_mini")
    monkeypatch.setattr(vk, "sample", {**small_world, "winoground_mini": copy}.__getitem__)
    assert study._fingerprint("emoji-llava") == fingerprints[-1]  # equal content in another folder
    image = next(path for path in sorted(copy.rglob("*")) if path.suffix in (".png", ".webp"))
    image.write_bytes(image.read_bytes() + b" ")
    fingerprints.append(study._fingerprint("emoji-llava"))
    assert len(set(fingerprints)) == 4


def test_code_of_runs_exists():
    assert all(path.exists() for path in study.CODE_OF_RUNS)


def test_long_captions_variant_trains_the_contrastive_loss_on_long_captions(small_world, small_plan):
    run = plan_run(small_plan, "components-random", LONG)
    usual, pairs = load_pairs(small_world["emoji_pairs"], "train"), runs.training_pairs(run)
    assert [pair.short for pair in pairs] == [pair.long for pair in usual if pair.group is None]
    assert all(pair.long is None and pair.short for pair in pairs)


def test_runs_train_on_the_first_groups_and_on_the_chosen_swaps(small_world, small_plan):
    run = plan_run(small_plan, "components", FULL)
    usual = load_pairs(small_world["emoji_pairs"], "train")
    assert [pair.short for pair in runs.training_pairs(run)] == [pair.short for pair in usual]
    groups = list(dict.fromkeys(pair.group for pair in usual if pair.group is not None))
    few = runs.training_pairs(dataclasses.replace(run, n_groups=3))
    kept = [pair.short for pair in usual if pair.group is None or pair.group in groups[:3]]
    assert [pair.short for pair in few] == kept and len(kept) < len(usual)
    lines = (small_world["emoji_pairs"] / "train" / "metadata.jsonl").read_text().splitlines()
    swaps = [json.loads(line).get("swap") for line in lines]
    twins = [pair for pair in runs.training_pairs(dataclasses.replace(run, swaps=("noun",))) if pair.group is not None]
    allowed = {
        pair.short for pair, swap in zip(usual, swaps, strict=True) if pair.group is not None and swap in (None, "noun")
    }
    assert twins and {pair.short for pair in twins} <= allowed
    assert min(Counter(pair.group for pair in twins).values()) > 1


def test_command_runs_an_experiment_and_trains_on_hard_negatives(small_world, small_plan, tmp_path):
    pairs = runs.training_pairs(plan_run(small_plan, "negatives", "+ swapped captions"))
    assert sum(bool(pair.negatives) for pair in pairs) > len(pairs) / 2
    options = ["--experiment", "negatives", "--steps", "2", "--batch-size", "4", "--generation-images", "1"]
    done = CliRunner().invoke(app, ["ablate", *options, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    random, swapped = (runs_of(results, "negatives", name)[0] for name in ("random batches", "+ swapped captions"))
    assert random["history"]["contrastive"][0] < swapped["history"]["contrastive"][0]  # more candidates
    assert "generation/seen/questions" not in swapped["measures"] and "| text → image R@1 |" in done.output


def test_unknown_experiment_is_an_error_before_any_run(small_world, small_plan, tmp_path):
    with pytest.raises(ValueError, match="unknown experiment 'ranks'"):
        run_experiments(["components", "ranks"], small_plan, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_prompt_study_is_stored_and_not_repeated(small_world, small_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "EMOJI_PROMPTS", study.EMOJI_PROMPTS[:3])
    first = run_experiments(["prompts"], small_plan, tmp_path, log=lambda _: None)
    assert len(first["prompts"]["prompts"]) == 3 and first["prompts"]["n"] == 4
    monkeypatch.setattr(study, "study_prompts", None)  # stored: must not be called again
    assert run_experiments(["prompts"], small_plan, tmp_path, log=lambda _: None)["prompts"] == first["prompts"]


def test_blind_baselines_score_captions_only(small_world):
    lvlm = vk.load_lvlm("emoji-llava")
    captions = ["a red dog", "a red dog and a cat", "cat a a of dog red red"]
    scores = likelihood_without_image(lvlm, captions)
    embedder = vk.Embedder(lvlm)
    other = [Image.effect_noise((64, 64), 90).convert("RGB")] * 3
    with_other = vk.likelihood(embedder, other, captions, paired=True, progress=False)
    difference = vk.likelihood(embedder, other, captions, paired=True, alpha=1.0, progress=False)
    assert np.allclose(scores, (with_other - difference).numpy(), atol=1e-5) and scores[2] < scores[0]
    found = blind_baselines(lvlm)
    assert list(found) == ["likelihood without the image", "shorter caption"]
    for record in found.values():
        assert set(record["measures"]["winoground/seen/group"]["correct"]) == {"0"}
        assert "1" in "".join(record["measures"][f"sugarcrepe/seen/{one}"]["correct"] for one in ("add_obj", "add_att"))


def test_twin_loss_of_a_model_that_ignores_word_order_is_at_least_ln_2(small_world):
    class BagOfWords:
        def encode_image(self, images):
            return torch.nn.functional.normalize(torch.arange(1.0, 1 + 3 * len(images)).reshape(-1, 3), dim=1)

        def encode_text(self, captions):
            rows = [[hash("".join(sorted(one.split()))) % 97 + 1.0, 2.0, 3.0] for one in captions]
            return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    assert runs.twin_metrics(BagOfWords())["twin_loss"] >= math.log(2)


def test_runs_on_other_pairs_have_other_folders_for_what_is_cached():
    plan = study.Plan()
    full, other = plan_run(plan, "components", FULL), plan_run(plan, "components-random", FULL)
    names = [study._data_of(run) for run in (full, other, plan_run(plan, "swaps", "noun only"))]
    assert len(set(names)) == 3
    assert study._data_of(dataclasses.replace(full, seed=2, lora_rank=1, batches=other.batches)) == names[0]
