"""`vladva export`, and how a model argument is resolved. `vladva check` is tested with the checks."""

import pytest
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app
from vladva_kit.cli.options import load_embedder
from vladva_kit.embedder.export import export

pytestmark = pytest.mark.usefixtures("one_thread")

run = CliRunner().invoke


def relative_files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_export_writes_the_same_files_as_the_function(tmp_path):
    by_command, by_function = tmp_path / "command", tmp_path / "function"
    assert run(app, ["export", "emoji-llava", "--out", str(by_command)]).exit_code == 0
    export(vk.Embedder(vk.load_lvlm()), by_function)
    files = relative_files(by_command)
    assert files == relative_files(by_function) and {"model.safetensors", "modules.json"} <= set(map(str, files))
    assert all((by_command / file).read_bytes() == (by_function / file).read_bytes() for file in files)


def test_export_rejects_a_clip(tmp_path):
    shown = run(app, ["export", "emoji-clip", "--out", str(tmp_path / "clip")])
    assert shown.exit_code == 2 and "not an LVLM" in shown.output and not (tmp_path / "clip").exists()


def test_a_model_name_selects_clip_the_lvlm_or_an_adapter(tmp_path):
    assert isinstance(load_embedder("emoji-clip"), vk.ClipEmbedder)
    assert not load_embedder("emoji-llava").adapted
    shipped = load_embedder("emoji-llava-vladva")
    assert shipped.adapted and load_embedder(str(shipped.save_pretrained(tmp_path / "adapter"))).adapted
