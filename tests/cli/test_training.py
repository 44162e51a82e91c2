"""`vladva demo`, `vladva train` and `vladva mine`."""

import json
import re
from collections import Counter

import pytest
from tiny import tiny_lvlm, tiny_pairs
from typer.testing import CliRunner

import vladva_kit as vk
import vladva_kit.data.pairs as pairs_module
from vladva_kit.cli import training
from vladva_kit.cli.app import app

pytestmark = pytest.mark.usefixtures("one_thread")

run = CliRunner().invoke


def test_demo_passes_its_options_on_and_prints_the_results(tmp_path, monkeypatch):
    calls = []

    def run_demo(folder, settings, command, log):
        calls.append((folder, settings.steps, settings.seed, command))
        log("fine-tuning")
        scores = {"text": {"percent": 41.5}, "image": {"percent": 30.0}, "group": {"percent": 12.3}, "n": 8}
        return {"models": {"base": {"winoground/seen": scores}}, "seconds": {"evaluating": 70.4, "fine-tuning": 120.0}}

    monkeypatch.setattr("vladva_kit.cli.demo.run_demo", run_demo)
    shown = run(app, ["demo", "--out", str(tmp_path), "--steps", "7", "--seed", "3"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0, shown.output
    assert calls == [(tmp_path, 7, 3, "vladva demo --steps 7 --batch-size 64 --seed 3")]
    assert "fine-tuning" in shown.output and "base" in shown.output and "12.3" in shown.output
    assert "190 s." in shown.output and str(tmp_path / "report.html") in shown.output.replace("\n", "")


def write_split(folder, pairs, *more):
    """Write pairs and more lines as a split of an imagefolder; return the number of lines."""
    folder.mkdir(parents=True)
    lines = list(more)
    for number, pair in enumerate(pairs):
        pair.image.save(folder / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "short": pair.short, "long": pair.long})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return len(lines)


def test_train_writes_an_adapter_that_loads(tmp_path, pairs, monkeypatch):
    monkeypatch.setattr("vladva_kit.models.load.load_lvlm", lambda name: tiny_lvlm())
    n_lines = write_split(tmp_path / "data" / "train", pairs, {"file_name": "missing.png", "short": "a dog"})
    arguments = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "4"]
    arguments += ["--distill-weight", "0.5"]
    stopped = run(app, arguments)
    assert stopped.exit_code and "missing.png" in str(stopped.exception)
    decoded, original = [], pairs_module.check_image
    monkeypatch.setattr(pairs_module, "check_image", lambda path, where: decoded.append(path) or original(path, where))
    with pytest.warns(UserWarning, match=r"missing\.png"):
        assert run(app, [*arguments, "--skip-bad"]).exit_code == 0
    assert len(decoded) == len(set(decoded)) == n_lines  # each image once, before the model is loaded
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert len(history) == 2 and all(row["distill"] > 0 for row in history)
    assert vk.Embedder.from_pretrained(tmp_path / "run" / "adapter", tiny_lvlm()).trainable()["LoRA"] > 0


def test_train_takes_a_file_and_repeats_the_run_from_the_settings_that_it_saves(tmp_path, pairs, monkeypatch):
    loads = []
    monkeypatch.setattr("vladva_kit.models.load.load_lvlm", lambda name, **load: loads.append(load) or tiny_lvlm())
    lines = (vk.sample("winoground_mini") / "examples.jsonl").read_text().splitlines()
    (tmp_path / "winoground").mkdir()
    (tmp_path / "winoground" / "examples.jsonl").write_text("\n".join(lines[:3]))
    (tmp_path / "winoground" / "images").symlink_to(vk.sample("winoground_mini") / "images")
    for split in ("train", "validation"):
        write_split(tmp_path / "data" / split, pairs)
    lines = [f"data: {tmp_path / 'data'}", "steps: 9", "batch_size: 4", "lora: {r: 8, lora_dropout: 1e-2}"]
    (tmp_path / "given.yaml").write_text("\n".join([*lines, "max_pixels: 4096", "validate_every: 1"]))
    options = ["--steps", "4", "--lora-rank", "2", "--learning-rate", "0", "--early-stopping", "1", "--device", "cpu"]
    options += ["--validation", str(tmp_path / "winoground"), "--validation", str(tmp_path / "data")]
    runs = [["--config", str(tmp_path / "given.yaml"), *options], ["--config", str(tmp_path / "first" / "run.yaml")]]
    histories = []
    for arguments, name in zip(runs, ("first", "second"), strict=True):
        shown = run(app, ["train", *arguments, "--out", str(tmp_path / name)])
        assert shown.exit_code == 0, shown.exception
        history = json.loads((tmp_path / name / "history.json").read_text())
        histories.append([{key: value for key, value in row.items() if key != "seconds"} for row in history])
        adapter = vk.Embedder.from_pretrained(tmp_path / name / "adapter", tiny_lvlm())
        assert (adapter.config.lora["r"], adapter.config.lora["lora_dropout"]) == (2, 0.01)
    assert histories[0] == histories[1] and len(histories[0]) == 2  # nothing is learned, so it stops after one more
    assert {"eval_winoground_group", "eval_mean_r1"} <= histories[0][0].keys()
    assert loads == [{"max_pixels": 4096, "device": "cpu"}] * 2
    assert (tmp_path / "first" / "run.yaml").read_text() == (tmp_path / "second" / "run.yaml").read_text()


def test_mine_writes_groups_of_neighbors_next_to_the_metadata(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    lines = []
    for index, pair in enumerate(tiny_pairs(12)):
        pair.image.save(folder / f"{index}.png")
        own = {"group": "given"} if index < 2 else {}
        lines.append(json.dumps({"file_name": f"{index}.png", "short": f"a dog near car {index}", **own}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(training, "load_embedder", lambda name: vk.Embedder(tiny_lvlm()))
    result = CliRunner().invoke(app, ["mine", str(tmp_path / "data"), "--margin", "-2", "--group-size", "3"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (folder / "metadata.mined.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [f"{index}.png" for index in range(12)]
    assert [row["group"] for row in rows[:2]] == ["given", "given"]
    mined = Counter(row["group"] for row in rows[2:] if "group" in row)
    assert mined and all(name.startswith("mined-") and count <= 3 for name, count in mined.items())
    assert str(folder / "metadata.mined.jsonl") in result.output.replace("\n", "")


def test_train_refuses_a_composition_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(vk, "load_lvlm", lambda name: tiny_lvlm())
    with pytest.raises(ValueError, match="write it as groups=0.25"):
        training.train("emoji_pairs", tmp_path, batches="half groups")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "is not a folder"),
        (["--steps", "0"], r"Settings\(steps=0\)"),
        (["--learning-rate", "nan"], r"Settings\(learning_rate=nan\)"),
        (["--distill-weight", "-1"], r"Settings\(distill_weight=-1.0\)"),
        (["--micro-batch-size", "-1"], r"Settings\(micro_batch_size=-1\)"),
        (["--early-stopping", "2"], "early_stopping=2 needs validation="),
        (["--validation", "nowhere"], "missing is not a folder"),
    ],
    ids=str,
)
def test_settings_and_data_are_checked_before_the_model_is_loaded(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("vladva_kit.models.load.load_lvlm", lambda name: pytest.fail("loaded"))
    shown = run(app, ["train", str(tmp_path / "missing"), "--out", str(tmp_path / "run"), *options])
    assert isinstance(shown.exception, ValueError) and re.search(message, str(shown.exception))


def test_a_finished_run_is_named_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("vladva_kit.models.load.load_lvlm", lambda name: pytest.fail("loaded"))
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-3" / "trainer_state.json").write_text("{}")
    shown = run(app, ["train", "emoji_pairs", "--out", str(tmp_path)])
    assert "holds checkpoints of an earlier run: resume it with resume=True (--resume)" in str(shown.exception)


def test_unusable_data_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("vladva_kit.models.load.load_lvlm", lambda name: pytest.fail("loaded"))
    refused = run(app, ["train", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert isinstance(refused.exception, vk.BadInput) and "nowhere is not a folder" in str(refused.exception)
    refused = run(app, ["train", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "has no metadata.jsonl" in str(refused.exception)
