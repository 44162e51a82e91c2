"""What identifies a model (weights, adapter, prompts, resolution, versions) and an image (its content)."""

import dataclasses
import hashlib
import importlib.metadata
import os
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

import vladva_kit as vk
from vladva_kit.embedder import identity
from vladva_kit.embedder.identity import code_digest, describe, image_key, model_fingerprint
from vladva_kit.evaluation.baselines import FeatureEmbedder
from vladva_kit.models.images import Crop


def test_the_fingerprint_depends_on_adapter_and_prompts(lvlm):
    baseline = vk.Embedder(lvlm)
    of_base = model_fingerprint(baseline)
    assert model_fingerprint(vk.Embedder(lvlm, "say what this is:")) != of_base
    embedder = vk.attach(lvlm)
    of_attached = model_fingerprint(embedder)
    assert of_attached != of_base == model_fingerprint(baseline)
    with embedder.base():
        assert model_fingerprint(embedder) == of_base and describe(embedder)["adapter"] is None
    with torch.no_grad():
        next(p for name, p in lvlm.model.named_parameters() if "lora_B" in name).add_(1e-3)
    assert model_fingerprint(embedder) not in (of_attached, of_base)
    described = describe(embedder)
    assert described["name"] == lvlm.name and described["dtype"] == "float32" and len(described["adapter"]) == 64


def test_the_fingerprint_of_a_clip_depends_on_its_weights():
    clip = vk.ClipEmbedder("emoji-clip")
    before = model_fingerprint(clip)
    assert before == model_fingerprint(vk.ClipEmbedder("emoji-clip"))
    with torch.no_grad():
        clip.model.logit_scale.add_(1)
    assert model_fingerprint(clip) != before


def test_baselines_of_other_libraries_are_described_by_name_and_weights():
    model = torch.nn.Linear(3, 5)
    baseline = FeatureEmbedder("open_clip:ViT-B-32/tag", model, None, None)
    before = describe(baseline)
    assert (before["name"], before["dtype"], before["adapter"]) == ("open_clip:ViT-B-32/tag", "float32", None)
    with torch.no_grad():
        model.bias.add_(1)
    assert describe(baseline)["weights"] != before["weights"]


def test_the_fingerprint_depends_on_resolution_tokens_and_lora_scaling(lvlm):
    fingerprints = [model_fingerprint(vk.Embedder(lvlm))]
    lvlm.family = dataclasses.replace(lvlm.family, max_pixels=300)  # as load_lvlm(max_pixels=300) does
    fingerprints.append(model_fingerprint(vk.Embedder(lvlm)))
    assert describe(vk.Embedder(lvlm))["max_pixels"] == 300
    lvlm.processor.chat_template = "please " + lvlm.processor.chat_template  # the words of the prompts stay
    fingerprints.append(model_fingerprint(vk.Embedder(lvlm)))
    embedder = vk.attach(lvlm, quiet=True)
    fingerprints.append(model_fingerprint(embedder))
    embedder.config = dataclasses.replace(embedder.config, lora={**embedder.config.lora, "lora_alpha": 32})
    fingerprints.append(model_fingerprint(embedder))
    assert len(set(fingerprints)) == 5


@pytest.mark.parametrize("library", ["vladva-kit", "transformers", "pillow"])
def test_the_fingerprint_depends_on_versions(lvlm, monkeypatch, library):
    before, installed = model_fingerprint(vk.Embedder(lvlm)), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == library else installed(name))
    assert model_fingerprint(vk.Embedder(lvlm)) != before


def test_large_weights_are_hashed_once_until_they_change(lvlm, monkeypatch):
    hashed, original = [], identity._hash_tensors
    monkeypatch.setattr(identity, "_hash_tensors", lambda weights: hashed.append(1) or original(weights))
    baseline = vk.Embedder(lvlm)
    weights = [describe(baseline)["weights"] for _ in range(3)]
    assert len(hashed) == 1 and len(set(weights)) == 1
    weight = lvlm.model.model.multi_modal_projector.linear_1.weight
    weight.data += 0.1  # as peft merges LoRA: without a new version of the tensor
    weights.append(describe(baseline)["weights"])
    assert len(hashed) == 2 and weights[-1] != weights[0]
    weight.requires_grad_(True)
    weight.data.view(-1)[1] += 1  # a single value that no sample contains
    assert describe(baseline)["weights"] not in weights


def test_buffers_are_part_of_the_weights():
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    baseline = FeatureEmbedder("open_clip:ViT-B-32/tag", model, None, None)
    before = describe(baseline)["weights"]
    model[1].running_mean.add_(1)
    assert describe(baseline)["weights"] != before


def test_the_code_digest_ignores_comments_docstrings_and_formatting(tmp_path):
    digests = []
    for source in (
        'def add(a, b):\n    """Add."""\n    return a + b\n',
        'def add(a, b):\n    """Sum."""\n    # both\n    return (a + b)\n',
        "def add(a, b):\n    return a - b\n",
    ):
        (tmp_path / "code.py").write_text(source)
        code_digest.cache_clear()
        digests.append(code_digest(tmp_path))
    assert digests[0] == digests[1] != digests[2]
    code_digest.cache_clear()


def images_of_equal_bytes_in_memory():
    """Images whose `tobytes()` are equal and that look different: palettes, modes, sizes, rotation, hidden colors."""
    indices = bytes(range(4)) * 3
    images = {}
    for name, palette in (("red", [255, 0, 0] * 4), ("blue", [0, 0, 255] * 4)):
        images[name] = Image.frombytes("P", (4, 3), indices)
        images[name].putpalette(palette)
    images["gray"] = Image.frombytes("L", (4, 3), indices)
    images["tall"] = Image.frombytes("L", (3, 4), indices)
    images["rotated"] = images["gray"].copy()
    images["rotated"].getexif()[0x0112] = 6
    images["transparent"] = images["gray"].copy()
    images["transparent"].info["transparency"] = 2
    return images


def test_image_keys_depend_on_what_the_model_sees():
    images = images_of_equal_bytes_in_memory()
    assert len({image.tobytes() for image in images.values()}) == 1
    assert len({image_key(image) for image in images.values()}) == len(images)
    assert image_key(images["red"]) == image_key(images["red"].convert("RGB"))
    upright = ImageOps.exif_transpose(images["rotated"])
    assert image_key(images["rotated"]) == image_key(upright) and upright.size == (3, 4)
    hidden = [Image.new("RGBA", (2, 2), (color, 0, 0, 0)) for color in (0, 255)]  # colors beneath transparent pixels
    assert {image_key(image) for image in hidden} == {image_key(Image.new("RGB", (2, 2), "white"))}


def test_a_file_has_the_key_of_its_content_not_of_its_path(tmp_path):
    red, blue = (Image.new("RGB", (2, 2), color) for color in ("red", "blue"))
    path = tmp_path / "image.png"
    red.save(path)
    (tmp_path / "link.png").symlink_to(path)
    (tmp_path / "copy.bin").write_bytes(path.read_bytes())
    keys = {image_key(tmp_path / name) for name in ("image.png", "link.png", "copy.bin")}
    assert keys == {hashlib.sha256(path.read_bytes()).hexdigest()}
    assert image_key(str(path)) == image_key(path.read_bytes()) == image_key(path)
    boxes = {image_key(Crop(path, (0, 0, 1, 1))), image_key(Crop(path, (0, 0, 1, 2)))}
    assert len(boxes | keys) == 3
    blue.save(path)  # at once: the file's date may be the same
    assert image_key(path) not in keys


def test_an_unchanged_file_is_read_once(tmp_path, monkeypatch):
    path, reads, read = tmp_path / "image.png", [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or read(self))
    for content, date in ((b"a", 1000), (b"b", 2000)):
        path.write_bytes(content)
        os.utime(path, (date, date))
        assert {image_key(path) for _ in range(5)} == {image_key(content)}
    assert len(reads) == 2


def test_keys_are_taken_without_decoding_files():
    assert image_key(b"not an image") == hashlib.sha256(b"not an image").hexdigest()


def test_a_hundred_thousand_keys_are_quick(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(bytes(10_000_000))
    os.utime(path, (1000, 1000))
    start = time.process_time()
    assert len({image_key(path) for _ in range(100_000)}) == 1  # reading it each time would take minutes
    assert time.process_time() - start < 10
