"""`vladva demo` and `vladva train`."""

import json

import pytest
from tiny import tiny_lvlm
from typer.testing import CliRunner

import vladva_kit as vk
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
    assert "fine-tuning" in shown.output and "41.5" in shown.output and "12.3" in shown.output
    assert "190 s." in shown.output and str(tmp_path / "report.html") in shown.output.replace("\n", "")


def test_train_writes_an_adapter_that_loads(tmp_path, pairs, monkeypatch):
    monkeypatch.setattr("vladva_kit.models.load.load_lvlm", lambda name: tiny_lvlm())
    data = tmp_path / "data" / "train"
    data.mkdir(parents=True)
    lines = []
    for number, pair in enumerate(pairs):
        pair.image.save(data / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "short": pair.short, "long": pair.long}))
    lines.append(json.dumps({"file_name": "missing.png", "short": "a dog"}))
    (data / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    arguments = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "4"]
    stopped = run(app, arguments)
    assert stopped.exit_code and "missing.png" in str(stopped.exception)
    with pytest.warns(UserWarning, match=r"missing\.png"):
        assert run(app, [*arguments, "--skip-bad"]).exit_code == 0
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())) == 2
    assert vk.Embedder.from_pretrained(tmp_path / "run" / "adapter", tiny_lvlm()).trainable()["LoRA"] > 0
