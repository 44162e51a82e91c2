"""`vladva eval` gives the same numbers as the functions it calls."""

import json

import pytest
from typer.testing import CliRunner

import vladva_kit as vk
from experiments.world import cases, miniatures, samples
from vladva_kit.cli.app import app
from vladva_kit.data import samples as data_samples
from vladva_kit.emoji_world.scenes import validation_scenes

pytestmark = pytest.mark.usefixtures("one_thread")

run = CliRunner().invoke


@pytest.fixture
def small_samples(tmp_path, monkeypatch):
    """The benchmark samples with only a few cases each."""
    monkeypatch.setattr(samples, "WINOGROUND_KINDS", {"object": 3, "color": 3, "size": 3, "relation": 3})
    monkeypatch.setattr(cases, "CASES_PER_CATEGORY", 12)
    monkeypatch.setattr(miniatures, "N_CASES", 4)
    monkeypatch.setattr(miniatures, "IMAGES_PER_CLASS", 1)
    monkeypatch.setattr(miniatures, "CLASSES", miniatures.CLASSES[:3])
    folder = tmp_path / "samples"
    monkeypatch.setattr(data_samples, "sample", lambda name: folder / name)
    for name in samples.DRAWN[1:]:
        samples.write_sample(name, folder / name)
    return folder


@pytest.fixture
def clip(monkeypatch):
    """emoji-clip, loaded once for all commands of a test."""
    model = vk.ClipEmbedder("emoji-clip")
    monkeypatch.setattr("vladva_kit.cli.evaluate.load_embedder", lambda name: model)
    return model


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def test_eval_matches_the_functions_on_small_samples(tmp_path, small_samples, clip):
    images = small_samples / "sugarcrepe_mini" / "images"
    captions = small_samples / "captions_mini"
    for benchmark, result in {
        "winoground": vk.evaluate_winoground(clip, small_samples / "winoground_mini"),
        "sugarcrepe": vk.evaluate_sugarcrepe(clip, small_samples / "sugarcrepe_mini"),
        "sugarcrepe_pp": vk.evaluate_sugarcrepe_pp(clip, small_samples / "sugarcrepe_pp_mini", images),
        "word_order": vk.evaluate_word_order(clip, small_samples / "word_order_mini", images),
        "coco": vk.evaluate_retrieval(clip, captions / "dataset_coco.json", captions_per_image=5, image_folder=images),
        "nocaps": vk.evaluate_retrieval(clip, captions / "nocaps_val_4500_captions.json", image_folder=images),
        "classification": vk.evaluate_classification(clip, small_samples / "classification_mini", ("a {}", "one {}")),
    }.items():
        out, cache = tmp_path / benchmark, tmp_path / "cache" / benchmark
        arguments = ["eval", "emoji-clip", "--benchmark", benchmark, "--out", str(out), "--cache", str(cache)]
        templates = ["--template", "a {}", "--template", "one {}"] if benchmark == "classification" else []
        shown = run(app, [*arguments, *templates])
        assert shown.exit_code == 0, shown.output
        saved = read_results(out)
        assert saved["data"] == {benchmark: result.data}
        assert saved["models"]["emoji-clip"][benchmark] == json.loads(json.dumps(result.as_dict()))
        assert len(saved["identity"]["emoji-clip"]["weights"]) == 64
        with_splits = benchmark in ("coco", "classification")  # the other samples have no split that could be chosen
        assert saved["settings"].get("split") == ("test" if with_splits else None)


def test_eval_scores_generated_answers(tmp_path, small_samples, monkeypatch):
    class AlwaysYes:
        fingerprint = "yes"

        def generate_batch(self, images, prompts, histories=None, max_new_tokens=128):
            return ["yes"] * len(prompts)

    monkeypatch.setattr("vladva_kit.cli.evaluate.load_embedder", lambda name: AlwaysYes())
    assert run(app, ["eval", "x", "--benchmark", "vqa", "--out", str(tmp_path / "run")]).exit_code == 0
    scores = read_results(tmp_path / "run")["models"]["x"]["vqa"]
    (path,) = (small_samples / "vqa_mini").glob("*annotations.json")
    answers = [annotation["answers"][0]["answer"] for annotation in json.loads(path.read_text())["annotations"]]
    assert scores["accuracy"]["percent"] == pytest.approx(100 * answers.count("yes") / len(answers))


def test_bad_cases_stop_the_command_unless_skipped(small_samples, clip):
    path = small_samples / "sugarcrepe_mini" / "swap_obj.json"
    entries = json.loads(path.read_text())
    entries["1"]["caption"] = ""
    path.write_text(json.dumps(entries))
    arguments = ["eval", "emoji-clip", "--benchmark", "sugarcrepe", "--data", str(path.parent)]
    stopped = run(app, arguments)
    assert stopped.exit_code and "swap_obj.json, entry 1: 'caption' is an empty caption" in str(stopped.exception)
    shown = run(app, [*arguments, "--skip-bad"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0 and "83, 1 left out" in shown.output
    assert "skipped: swap_obj.json, entry 1" in shown.stderr


def test_an_unknown_benchmark_lists_the_known_ones():
    shown = run(app, ["eval", "emoji-clip", "--benchmark", "imagenet"])
    assert shown.exit_code == 2 and "winoground" in shown.output and "sugarcrepe" in shown.output


UNSUPPORTED = {
    "winoground": ("--split", "--images", "--template"),
    "sugarcrepe": ("--split", "--template"),
    "sugarcrepe_pp": ("--split", "--template"),
    "word_order": ("--split", "--template"),
    "retrieval": ("--images", "--template"),
    "coco": ("--template",),
    "nocaps": ("--split", "--template"),
    "classification": ("--images",),
    "vqa": ("--split", "--template", "--cache"),
    "captions": ("--template", "--cache"),
    "questions": ("--split", "--images", "--template", "--cache", "--skip-bad"),
}


@pytest.mark.parametrize(("benchmark", "options"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_an_option_that_a_benchmark_does_not_take_is_an_error_before_the_model_is_loaded(
    benchmark, options, monkeypatch
):
    monkeypatch.setattr("vladva_kit.cli.evaluate.load_embedder", lambda name: pytest.fail("loaded"))
    values = {"--split": "test", "--images": ".", "--template": "a {}", "--cache": "cache"}
    for option in options:
        value = [values[option]] if option in values else []
        shown = run(app, ["eval", "x", "--benchmark", benchmark, option, *value], env={"COLUMNS": "400"})
        assert shown.exit_code == 2 and f"does not take {option}; it takes --data" in shown.output


def test_questions_are_sampled_with_the_seed(tmp_path, monkeypatch):
    class Repeats:
        fingerprint = "repeats"

        def generate_batch(self, images, prompts, histories=None, max_new_tokens=128):
            return list(prompts)

    monkeypatch.setattr("vladva_kit.cli.evaluate.load_embedder", lambda name: Repeats())
    monkeypatch.setattr("vladva_kit.emoji_world.scenes.validation_scenes", lambda name, n: validation_scenes(name, 8))
    saved = {}
    for name, seed in (("default", []), ("0", ["--seed", "0"]), ("1", ["--seed", "1"])):
        out = tmp_path / name
        assert run(app, ["eval", "x", "--benchmark", "questions", "--out", str(out), *seed]).exit_code == 0
        saved[name] = read_results(out)
    assert saved["default"]["data"] == saved["0"]["data"] != saved["1"]["data"]
    assert saved["1"]["settings"] == {"data": "seen", "by": "embedding", "seed": 1}


@pytest.mark.parametrize("benchmark", ["questions", "vqa", "captions"])
def test_a_clip_cannot_answer_questions(benchmark, clip):
    shown = run(app, ["eval", "emoji-clip", "--benchmark", benchmark], env={"COLUMNS": "200"})
    assert shown.exit_code == 2 and "'emoji-clip' cannot generate text: give an LVLM" in shown.output


def test_eval_by_likelihood_and_with_reranking(small_samples, tmp_path):
    scorer = vk.LikelihoodScorer(vk.load_lvlm("emoji-llava"))
    output = run(app, ["eval", "emoji-llava", "--by", "likelihood", "--out", str(tmp_path / "out")])
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    expected = vk.evaluate_winoground(scorer, small_samples / "winoground_mini")
    assert output.exit_code == 0 and saved["settings"]["by"] == "likelihood"
    assert saved["models"]["emoji-llava"]["winoground"]["group"]["percent"] == expected.group.percent
    assert saved["identity"]["emoji-llava"] == {"name": "LikelihoodScorer", "weights": scorer.fingerprint}
    for arguments in (["emoji-clip"], ["emoji-llava", "--benchmark", "vqa"]):
        refused = run(app, ["eval", *arguments, "--by", "likelihood"])
        assert refused.exit_code == 2 and "has no likelihood for" in " ".join(refused.output.split())


def test_json_prints_what_results_json_holds_and_nothing_else(small_samples, clip, tmp_path):
    shown = run(app, ["eval", "emoji-clip", "--json", "--out", str(tmp_path / "run")])
    assert shown.exit_code == 0 and "Results: " in shown.stderr
    assert json.loads(shown.stdout) == read_results(tmp_path / "run")


def test_compare_prints_its_differences_as_json(small_samples, clip, tmp_path):
    runs = [str(tmp_path / name) for name in ("first", "second")]
    for out in runs:
        assert run(app, ["eval", "emoji-clip", "--out", out]).exit_code == 0
    shown = run(app, ["compare", *runs, "--json", "--out", str(tmp_path / "differences.json")])
    assert shown.exit_code == 0, shown.output
    printed = json.loads(shown.stdout)
    assert printed == json.loads((tmp_path / "differences.json").read_text())
    assert {row["difference"] for row in printed["differences"]} == {0.0}
