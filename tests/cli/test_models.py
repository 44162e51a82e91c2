"""`vladva export`, and how a model argument is resolved. `vladva check` is tested with the checks."""

import shutil

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled
from PIL import Image
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app
from vladva_kit.cli.options import load_embedder
from vladva_kit.embedder.export import export
from vladva_kit.embedder.provenance import read_provenance
from vladva_kit.models.load import SHIPPED, UnknownModel

pytestmark = pytest.mark.usefixtures("one_thread")

run = CliRunner().invoke
COMMIT = "c" * 40


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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put folders into the hub's cache, as a download would: `hub("me/adapter", folder)`."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def cache(repo_id, folder):
        repository = tmp_path / "cache" / f"models--{repo_id.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)

    return cache


def test_a_hub_id_selects_an_adapter_with_its_soft_prompts_a_clip_an_export_or_an_lvlm(hub, tmp_path, monkeypatch):
    adapter = load_embedder("emoji-llava-vladva")
    hub("me/adapter", adapter.save_pretrained(tmp_path / "adapter"))
    found = load_embedder("me/adapter")
    assert found.adapted and torch.equal(found.encode_text(["a dog"]), adapter.encode_text(["a dog"]))
    hub("me/clip", SHIPPED / "emoji-clip")
    assert isinstance(load_embedder("me/clip"), vk.ClipEmbedder)
    hub("me/llava", SHIPPED / "emoji-llava")
    plain = load_embedder("me/llava")
    assert plain.config is None and plain.lvlm.revision == COMMIT
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "modules.json").write_text("[]")
    hub("me/exported", tmp_path / "exported")
    loaded = []
    monkeypatch.setattr("vladva_kit.evaluation.baselines.load_baseline", loaded.append)
    load_embedder("me/exported")
    assert loaded == ["sentence_transformers:me/exported"]


def test_an_adapter_is_not_loaded_as_an_lvlm(hub, tmp_path):
    """transformers would load its base with LoRA and drop the soft prompts."""
    folder = load_embedder("emoji-llava-vladva").save_pretrained(tmp_path / "adapter")
    hub("me/adapter", folder)
    for name in (str(folder), "me/adapter"):
        with pytest.raises(UnknownModel, match="is an adapter, not an LVLM: .*Embedder.from_pretrained"):
            vk.load_lvlm(name)


def test_the_revision_of_a_hub_base_is_recorded(hub, tmp_path):
    hub("me/llava", SHIPPED / "emoji-llava")
    folder = vk.attach(vk.load_lvlm("me/llava"), quiet=True).save_pretrained(tmp_path / "adapter")
    recorded, missing = read_provenance(folder)
    assert (recorded.base, recorded.revision, missing) == ("me/llava", COMMIT, [])
    assert "base_model: me/llava\n" in (folder / "README.md").read_text()
    assert f'revision="{COMMIT}"' in (folder / "README.md").read_text()
    assert vk.Embedder.from_pretrained(folder).lvlm.revision == COMMIT


def test_any_clip_is_loaded_by_its_folder_and_other_baselines_by_their_library(hub, tmp_path, monkeypatch):
    clip = load_embedder(str(SHIPPED / "emoji-clip"))
    assert isinstance(clip, vk.ClipEmbedder)
    assert torch.equal(clip.encode_text(["a dog"]), load_embedder("emoji-clip").encode_text(["a dog"]))
    loaded = []
    monkeypatch.setattr("vladva_kit.evaluation.baselines.load_baseline", loaded.append)
    names = ["open_clip:ViT-B-32/laion2b_s34b_b79k", "sentence_transformers:clip-ViT-B-32"]
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "modules.json").write_text("[]")
    open_clip = tmp_path / "open_clip"
    open_clip.mkdir()
    (open_clip / "open_clip_config.json").write_text("{}")
    hub("me/open_clip", open_clip)
    for name in (*names, str(exported), str(open_clip), "me/open_clip"):
        load_embedder(name)
    folders = [f"sentence_transformers:{exported}", f"open_clip:local-dir:{open_clip}", "open_clip:hf-hub:me/open_clip"]
    assert loaded == [*names, *folders]


def test_a_model_of_another_kind_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UnknownModel, match="emoji-clip' is a clip, not a generative .*: load a CLIP.*load_baseline"):
        vk.load_lvlm(str(SHIPPED / "emoji-clip"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(UnknownModel, match="is a bert, not a generative") as raised:
        load_embedder(str(tmp_path))
    assert len(str(raised.value)) < 400


def test_captions_are_not_asked_of_a_clip(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    shown = run(app, ["caption", str(tmp_path), "--model", "emoji-clip", "--out", str(tmp_path / "out")])
    assert shown.exit_code == 2 and "cannot generate text" in shown.output and not (tmp_path / "out").exists()


def test_loading_shows_no_bar_but_downloads_still_do(capfd):
    load_embedder("emoji-llava")
    assert "Loading weights" not in capfd.readouterr().err
    assert not are_progress_bars_disabled()
