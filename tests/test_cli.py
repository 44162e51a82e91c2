"""The commands: quick to start, clear when wrong, and the same as the functions they call."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli import app, main

run = CliRunner().invoke


def test_importing_the_kit_loads_nothing_heavy():
    code = (
        "import sys, vladva_kit; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_loads_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from vladva_kit.cli import app; "
        "r = CliRunner().invoke(app, ['--help']); sys.exit(r.exit_code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_names_every_command():
    shown = run(app, ["--help"]).output
    words = set(shown.split())
    assert {"demo", "train", "eval", "compare", "world", "pretrain"} <= words


def test_eval_gives_what_the_function_gives(tmp_path):
    out = tmp_path / "run"
    assert run(app, ["eval", "emoji-clip", "--benchmark", "winoground", "--out", str(out)]).exit_code == 0
    result = vk.evaluate_winoground(vk.ClipEmbedder("emoji-clip"), vk.sample("winoground_mini"))
    told = json.loads((out / "results.json").read_text())
    assert told["models"]["emoji-clip"]["winoground"]["group"]["percent"] == pytest.approx(result.group.percent)
    assert told["data"] == {"winoground": result.data}


def test_train_writes_an_adapter_that_loads(tmp_path, pairs):
    data = tmp_path / "data" / "train"
    data.mkdir(parents=True)
    rows = []
    for number, pair in enumerate(pairs):
        pair.image.save(data / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "short": pair.short, "long": pair.long}))
    rows.append(json.dumps({"file_name": "missing.png", "short": "a dog"}))
    (data / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    arguments = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "4"]
    failed = run(app, arguments)
    assert failed.exit_code and "missing.png" in str(failed.exception)
    with pytest.warns(UserWarning, match=r"missing\.png"):
        assert run(app, [*arguments, "--skip-bad"]).exit_code == 0
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())) == 2
    assert vk.Embedder.from_pretrained(tmp_path / "run" / "adapter").trainable()["LoRA"] > 0


def test_what_the_user_can_mend_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vladva", "eval", "emoji-lama"])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "emoji-llava" in error and "Traceback" not in error


def test_an_unknown_benchmark_lists_the_known_ones():
    shown = run(app, ["eval", "emoji-clip", "--benchmark", "imagenet"]).output
    assert "winoground" in shown and "sugarcrepe" in shown
