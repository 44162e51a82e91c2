"""Image features kept for a run: training is the same, the vision encoder runs once per image, folders are reused."""

import dataclasses
from collections import namedtuple

import pytest
import torch
from PIL import Image
from tiny import randomize_lora, tiny_embedder, tiny_lvlm, tiny_pairs
from tiny_families import build

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, LONG_CAPTIONS, example_images
from vladva_kit.training.collator import Collator
from vladva_kit.training.image_cache import cache_image_features, encode_cached_images
from vladva_kit.training.trainer import step_losses

pytestmark = pytest.mark.usefixtures("one_thread")
LOSSES = ("loss", "contrastive", "next_token")


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


def losses_of(embedder, pairs, image_features=None):
    with torch.no_grad():
        metrics = step_losses(embedder, Collator(embedder, image_features=image_features)(pairs)["batch"])
    return {name: float(metrics[name]) for name in LOSSES}


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_losses_from_cached_features_equal_those_from_images(embedder, tmp_path, where, monkeypatch):
    pairs = tiny_pairs(7)
    expected = losses_of(embedder, pairs)
    features = cache_image_features(embedder, pairs, "memory" if where == "memory" else str(tmp_path / "features"), 3)
    monkeypatch.setattr(embedder.lvlm.model.model.vision_tower, "forward", None)  # must not run again
    assert losses_of(embedder, [pairs[i] for i in (5, 0, 1, 2, 3, 4, 6)], features) == pytest.approx(expected, rel=1e-5)


FAMILIES = ["llava", "qwen2_vl", "smolvlm", "internvl", "paligemma", "mllama"]  # all kinds of resolution and features


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_features_are_those_of_the_images_at_max_pixels(tmp_path, family):
    build(family, tmp_path / "model")
    pairs = [vk.Pair(*fields) for fields in zip(example_images(), CAPTIONS, LONG_CAPTIONS, strict=True)]
    limited, unlimited = (
        vk.attach(vk.load_lvlm(str(tmp_path / "model"), dtype=torch.float32, max_pixels=max_pixels), quiet=True)
        for max_pixels in (28 * 28 * 2, None)
    )
    expected = losses_of(limited, pairs)
    features = cache_image_features(limited, pairs, str(tmp_path / "features"), batch_size=2)
    assert losses_of(limited, pairs, features) == pytest.approx(expected, rel=1e-5)
    assert losses_of(unlimited, pairs)["loss"] != pytest.approx(expected["loss"], rel=1e-5)  # max_pixels has an effect


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_fit_with_max_pixels_is_the_same_with_cached_images(tmp_path, where):
    build("qwen2_vl", tmp_path / "model")
    pairs = [vk.Pair(*fields) for fields in zip(example_images(), CAPTIONS, LONG_CAPTIONS, strict=True)] * 2
    histories = []
    for cache_images in (None, "memory" if where == "memory" else str(tmp_path / "features")):
        lvlm = vk.load_lvlm(str(tmp_path / "model"), dtype=torch.float32, max_pixels=28 * 28 * 2)
        embedder = vk.attach(lvlm, quiet=True)
        randomize_lora(embedder)
        settings = vk.Settings(steps=2, batch_size=3, warmup=1, cache_images=cache_images)
        histories.append(vk.fit(embedder, pairs, settings, progress=False))
    for row, expected in zip(histories[1], histories[0], strict=True):
        assert {k: row[k] for k in LOSSES} == pytest.approx({k: expected[k] for k in LOSSES}, rel=1e-4)


def test_fit_is_the_same_with_cached_images_and_cached_gradients():
    histories = []
    for changes in ({}, {"cache_images": "memory", "micro_batch_size": 3}):
        settings = vk.Settings(steps=2, batch_size=6, warmup=1, **changes)
        histories.append(vk.fit(tiny_embedder(), tiny_pairs(12), settings, progress=False))
    assert [row["loss"] for row in histories[1]] == pytest.approx([row["loss"] for row in histories[0]], rel=1e-4)


def test_an_image_of_several_pairs_is_kept_once(embedder):
    pairs = tiny_pairs(3)
    copies = [vk.Pair(pair.image.copy(), "another caption") for pair in pairs]
    assert len(cache_image_features(embedder, [*pairs, *copies], "memory").images) == 3


def test_the_size_is_logged_and_a_large_one_is_a_warning(embedder, caplog, monkeypatch):
    monkeypatch.setattr("vladva_kit.training.image_cache.NOTABLE_BYTES", 0)
    features = cache_image_features(embedder, tiny_pairs(3), "memory")
    n_bytes = sum(layer.numel() * 4 for _, layers in features.images for layer in layers)
    assert f"3 images: about {n_bytes / 1e9:.2f} GB in memory" in caplog.text


def test_a_folder_is_reused_without_running_the_vision_encoder(embedder, tmp_path, monkeypatch):
    pairs, rows = tiny_pairs(5), []
    first = cache_image_features(embedder, pairs, str(tmp_path))
    encoder = embedder.lvlm.model.model.vision_tower
    forward = encoder.forward
    monkeypatch.setattr(
        encoder, "forward", lambda pixels, **options: rows.append(len(pixels)) or forward(pixels, **options)
    )
    again = cache_image_features(embedder, pairs, str(tmp_path))
    assert rows == [1]  # one image, to know the size
    for one, other in zip(first.batch(pairs)[1].rows, again.batch(pairs)[1].rows, strict=True):
        assert torch.equal(one[0], other[0])


def test_a_folder_of_other_images_raises(embedder, tmp_path):
    cache_image_features(embedder, tiny_pairs(3), str(tmp_path))
    with pytest.raises(ValueError, match="holds results of something else"):
        cache_image_features(embedder, tiny_pairs(4), str(tmp_path))


def test_a_folder_of_other_weights_raises(embedder, tmp_path):
    cache_image_features(embedder, tiny_pairs(3), str(tmp_path))
    changed = vk.attach(tiny_lvlm())
    with torch.no_grad():
        changed.lvlm.model.model.multi_modal_projector.linear_1.weight *= 1.2
    with pytest.raises(ValueError, match="encoder.weights: [0-9a-f]{12} in the folder, [0-9a-f]{12} now"):
        cache_image_features(changed, tiny_pairs(3), str(tmp_path))


def test_a_replaced_image_or_another_resolution_raises(embedder, tmp_path):
    path, where = tmp_path / "image.png", str(tmp_path / "features")
    Image.new("RGB", (64, 64), "red").save(path)
    cache_image_features(embedder, [vk.Pair(path, "red")], where)
    cache_image_features(embedder, [vk.Pair(path, "the same")], where)
    limited = vk.attach(tiny_lvlm(), quiet=True)
    limited.lvlm.family = dataclasses.replace(limited.lvlm.family, max_pixels=100)
    with pytest.raises(ValueError, match="encoder.max_pixels: None in the folder, 100 now"):
        cache_image_features(limited, [vk.Pair(path, "red")], where)
    Image.new("RGB", (64, 64), "blue").save(path)
    with pytest.raises(ValueError, match="images: [0-9a-f]{12} in the folder, [0-9a-f]{12} now"):
        cache_image_features(embedder, [vk.Pair(path, "blue")], where)


def test_recolored_palette_images_have_their_own_features(embedder):
    images = [Image.new("RGB", (64, 64), color).quantize() for color in ("red", "blue")]
    pairs = [vk.Pair(image, "a wall") for image in images]
    features = cache_image_features(embedder, pairs, "memory")
    assert len(features.images) == 2
    expected = embedder.encode_image(images)
    assert torch.allclose(encode_cached_images(embedder, features, pairs), expected, atol=1e-5)


def test_a_trained_adapter_reuses_the_folder(tmp_path):
    trained, pairs = tiny_embedder(), tiny_pairs(5)
    cache_image_features(trained, pairs, str(tmp_path))
    randomize_lora(trained)
    features = cache_image_features(trained, pairs, str(tmp_path))
    with trained.base():
        expected = trained.encode_image([pair.image for pair in pairs])
        assert torch.allclose(encode_cached_images(trained, features, pairs, 2), expected, atol=1e-5)


def test_too_little_disk_space_raises_before_anything_is_written(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "total used free")(1, 1, 0))
    with pytest.raises(ValueError, match="0.0 GB left"):
        cache_image_features(embedder, tiny_pairs(3), str(tmp_path / "new" / "features"))
    assert not (tmp_path / "new").exists()


def test_a_trainable_vision_encoder_raises():
    embedder = vk.attach(tiny_lvlm(), lora={"target_modules": ["q_proj"]})
    with pytest.raises(ValueError, match="is trainable"):
        cache_image_features(embedder, tiny_pairs(2), "memory")
