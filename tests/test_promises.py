"""What SECURITY.md promises, where no other test does: no pickle, no code of a model, no token in anything written."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny import fit, small, tiny_embedder, tiny_lvlm, tiny_pairs

import vladva_kit as vk
from vladva_kit.data.captioning import caption_images, write_imagefolder
from vladva_kit.data.images import list_images
from vladva_kit.embedder.export import export
from vladva_kit.embedder.identity import describe, identity_of
from vladva_kit.evaluation.results import save_results
from vladva_kit.models.load import SHIPPED, UnknownModel
from vladva_kit.search.shards import embed_images_to_shards

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "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"
pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_promise_names_tests_that_exist():
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 8
    for row in rows:
        files = re.findall(r"\((tests/[\w/]+\.py)\)", row.split("|")[2])
        assert files and all("def test_" in (ROOT / file).read_text() for file in files), row


class Payload:
    """A pickle that writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


def test_a_pickle_in_place_of_weights_is_not_read(tmp_path):
    model = shutil.copytree(SHIPPED / "emoji-llava", tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "proof")))
    with pytest.raises(UnknownModel, match="other weight formats can run code and are not read"):
        vk.load_lvlm(str(model))
    adapter = tiny_embedder().save_pretrained(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "proof")))
    with pytest.raises(ValueError, match="has no adapter_model.safetensors"):
        vk.Embedder.from_pretrained(adapter, tiny_lvlm())
    assert not (tmp_path / "proof").exists()


def test_code_in_a_models_folder_does_not_run(tmp_path):
    model = shutil.copytree(SHIPPED / "emoji-llava", tmp_path / "model")
    (model / "code.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w').write('executed')")
    config = json.loads((model / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor")
    code = {"auto_map": dict.fromkeys(names, "code.Anything")}
    (model / "config.json").write_text(json.dumps({**config, **code}))
    vk.load_lvlm(str(model))
    (model / "config.json").write_text(json.dumps({**config, **code, "model_type": "unknown"}))
    with pytest.raises(UnknownModel):
        vk.load_lvlm(str(model))
    assert not (tmp_path / "proof").exists()


def test_a_token_appears_in_nothing_that_is_printed_or_written(tmp_path, monkeypatch, capfd):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, TOKEN)
    embedder = tiny_embedder()
    folders = {"output_dir": str(tmp_path / "run"), "cache_images": str(tmp_path / "features")}
    fit(embedder, small(steps=2, save_every=1, **folders))
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (16, 16), "red").save(images / "a.png")
    embed_images_to_shards(
        list_images(images), embedder.encode_image, tmp_path / "shards", model="m", identity=identity_of(embedder)
    )
    caption_images(embedder, list_images(images), tmp_path / "captions")
    write_imagefolder(list_images(images), tmp_path / "captions", "tiny")
    result = vk.evaluate_retrieval(embedder, [pair for pair in tiny_pairs(6) if pair.short], cache=tmp_path / "cache")
    save_results(tmp_path / "results", {"m": {"retrieval": result}}, {"m": describe(embedder)}, {"seed": 0})
    embedder.save_pretrained(tmp_path / "adapter", results={"retrieval": result})
    embedder.push_to_hub("me/adapter", token=TOKEN, dry_run=True)
    export(embedder, tmp_path / "export")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 40
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in "".join(capfd.readouterr()) + repr(embedder)
