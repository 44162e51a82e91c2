"""ONNX Runtime gives the kit's embeddings, from the exported files alone."""

import importlib.util
import json

import numpy as np
import pytest
import tiny_families
import torch
from tiny import tiny_embedder, tiny_lvlm
from tokenizers import Tokenizer

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, example_images
from vladva_kit.embedder.onnx_export import export_onnx
from vladva_kit.models.load import load_processor

pytestmark = pytest.mark.usefixtures("one_thread")
MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: make test-interop runs it")
IMAGES = example_images()


def run(folder, name, **inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def encode_text(folder, captions, rows=None):
    """Embed captions as onnx_config.json describes, with no library but tokenizers and ONNX Runtime."""
    text = json.loads((folder / "onnx_config.json").read_text())["text"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=text["pad_id"])
    tokenizer.no_truncation()
    whole = [text["before"] + caption + text["after"] for caption in captions]
    batch = tokenizer.encode_batch(whole, add_special_tokens=text["add_special_tokens"])
    ids, mask = (np.array([getattr(one, key) for one in batch]) for key in ("ids", "attention_mask"))
    return run(folder, "text_encoder.onnx", input_ids=ids, attention_mask=mask)


def encode_image(folder, embedder, images):
    processor = load_processor(str(folder), embedder.lvlm.model.config, embedder.lvlm.family)
    pixels = processor.image_processor(images=images, return_tensors="np")["pixel_values"]
    return np.concatenate([run(folder, "image_encoder.onnx", pixel_values=one[None]) for one in pixels])


def assert_equal(found, expected):
    assert np.abs(found - expected.numpy()).max() < 1e-5 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@needs_onnx
@pytest.mark.slow
def test_the_shipped_adapter_gives_the_kits_embeddings(tmp_path):
    embedder = vk.Embedder.from_pretrained("emoji-llava-vladva")
    folder = export_onnx(embedder, tmp_path / "onnx")
    captions = [*CAPTIONS, "a", "two red cats above a big blue house, and a zebra!"]
    assert_equal(encode_text(folder, captions), embedder.encode_text(captions))
    assert_equal(encode_text(folder, captions[:1]), embedder.encode_text(captions[:1]))
    assert_equal(encode_image(folder, embedder, IMAGES), embedder.encode_image(IMAGES))


@needs_onnx
def test_a_baseline_is_exported_with_its_hand_written_prompts_and_is_unchanged(tmp_path):
    lvlm = tiny_lvlm()
    baseline = vk.Embedder(lvlm)
    before = baseline.encode_text(CAPTIONS)
    folder = export_onnx(baseline, tmp_path / "onnx")
    assert_equal(encode_text(folder, CAPTIONS), before)
    assert torch.equal(baseline.encode_text(CAPTIONS), before)


@needs_onnx
@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_an_image_encoder_that_depends_on_the_images_size_is_left_out_with_the_reason(tmp_path, family):
    embedder = tiny_families.embedder_of(family, tmp_path / "base")
    with pytest.warns(UserWarning, match="image_encoder.onnx was left out: its number of tokens or tiles depends"):
        folder = export_onnx(embedder, tmp_path / "onnx")
    assert_equal(encode_text(folder, CAPTIONS), embedder.encode_text(CAPTIONS))
    assert not (folder / "image_encoder.onnx").exists()
    assert "depends on the size" in json.loads((folder / "onnx_config.json").read_text())["image"]["reason"]


def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript: pip install 'vladva-kit\[onnx\]'"):
        export_onnx(tiny_embedder(), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
