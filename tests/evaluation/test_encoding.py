"""Exact scores, and the cache of embeddings."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_embedder, tiny_lvlm

import vladva_kit as vk
from vladva_kit.data.store import Store
from vladva_kit.evaluation import encoding, evaluate_retrieval
from vladva_kit.evaluation.encoding import all_dots, dots, embed_images, embed_texts, encode_once


def unit(*shape, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_dot_products_are_exact_sums_rounded_to_float32():
    left, right = unit(5, 300), unit(5, 300, seed=1)
    exact = np.array(
        [sum(float(a) * float(b) for a, b in zip(*rows, strict=True)) for rows in zip(left, right, strict=True)]
    )
    assert dots(left, right).tolist() == dots(left, right).astype(np.float32).tolist()
    assert dots(left, right).tolist() == pytest.approx(exact.tolist(), abs=1e-8)
    assert np.diagonal(all_dots(left, right)).tolist() == dots(left, right).tolist()


@pytest.mark.parametrize("rows", [3, 17, 100, 1025])
def test_equal_embeddings_have_equal_scores_at_any_position(rows):
    scores = all_dots(unit(7, 333), np.repeat(unit(1, 333, seed=1), rows, axis=0))
    assert (scores == scores[:, :1]).all()


def test_bfloat16_tensors_with_gradients_become_float32_arrays():
    class Encoder:
        def encode_text(self, texts):
            return torch.eye(4, dtype=torch.bfloat16, requires_grad=True)[: len(texts)]

    vectors = embed_texts(Encoder(), ["a", "b", "c"], batch_size=2)
    assert vectors.dtype == np.float32 and vectors.tolist() == np.eye(4)[[0, 1, 0]].tolist()


def make_images(n):
    return [Image.new("RGB", (2, 2), (number, 0, 0)) for number in range(n)]


@pytest.fixture
def named(random_encoder):
    random_encoder.fingerprint = "weights"
    return random_encoder


def test_cached_embeddings_are_not_encoded_again(tmp_path, named):
    texts = [f"text {number}" for number in range(5)]
    first = encode_once(named, make_images(7), texts, batch_size=3, cache=tmp_path)
    assert (len(named.images), len(named.texts)) == (7, 5)
    again = encode_once(named, make_images(8), [*texts, "new"], batch_size=3, cache=tmp_path)
    assert (len(named.images), len(named.texts)) == (8, 6)
    assert (again.images[:7] == first.images).all() and (again.texts[:5] == first.texts).all()
    assert again.images.dtype == np.float32


def test_other_weights_do_not_use_the_cache(tmp_path, named):
    encode_once(named, make_images(3), ["a"], 64, tmp_path)
    named.fingerprint = "other weights"
    encode_once(named, make_images(3), ["a"], 64, tmp_path)
    assert (len(named.images), len(named.texts)) == (6, 2)


def test_another_resolution_does_not_use_the_cache(tmp_path):
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    lvlm, vectors = tiny_lvlm(), []
    for max_pixels in (None, 100, None):
        lvlm.family = dataclasses.replace(lvlm.family, max_pixels=max_pixels)
        vectors.append(encode_once(vk.Embedder(lvlm), [image], ["a"], 64, tmp_path).images)
        assert np.allclose(vectors[-1], vk.Embedder(lvlm).encode_image([image]).numpy(), atol=1e-6)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3) and np.array_equal(vectors[0], vectors[2])


def test_the_base_does_not_use_the_adapters_cache(tmp_path):
    embedder = tiny_embedder()
    vectors = [encode_once(embedder, make_images(1), ["a dog"], 64, tmp_path).texts]
    with embedder.base():
        vectors.append(encode_once(embedder, make_images(1), ["a dog"], 64, tmp_path).texts)
        assert np.allclose(vectors[1], embedder.encode_text(["a dog"]).numpy(), atol=1e-6)
    assert not np.allclose(*vectors, atol=1e-3)


@pytest.mark.parametrize("cached", [True, False])
def test_a_palette_image_and_its_recolored_copy_have_their_own_embeddings(tmp_path, cached):
    red, blue = (Image.new("RGB", (8, 8), color).quantize() for color in ("red", "blue"))
    assert red.tobytes() == blue.tobytes()
    embedder = vk.Embedder(tiny_lvlm())
    vectors = encode_once(embedder, [red, blue], ["a"], 64, tmp_path if cached else None).images
    assert np.allclose(vectors, embedder.encode_image([red, blue]).numpy(), atol=1e-6)
    assert not np.allclose(*vectors, atol=1e-3)


def test_a_replaced_file_is_encoded_again(tmp_path, named):
    path, cache = tmp_path / "image.png", tmp_path / "cache"
    for color in ("red", "blue", "red"):
        Image.new("RGB", (2, 2), color).save(path)
        encode_once(named, [path], ["a"], 64, cache)
    assert named.images == [(255, 0, 0), (0, 0, 255)]


def test_only_shards_with_known_items_are_read(tmp_path, named, monkeypatch):
    for start in (0, 5, 10):
        encode_once(named, make_images(1), [f"text {number}" for number in range(start, start + 5)], 64, tmp_path)
    reads, read = [], Store.read
    monkeypatch.setattr(Store, "read", lambda self, name: reads.append(name) or read(self, name))
    encode_once(named, make_images(1), ["text 7", "text 8"], 64, tmp_path)
    assert len(reads) == 2 and len(named.texts) == 15  # one shard of images, one of texts


def test_a_hundred_thousand_keys_are_looked_up_quickly(tmp_path):
    store = Store.open(tmp_path, {"embeddings of": "text"})
    keys = [f"{number:064x}" for number in range(100_000)]
    for start in range(0, len(keys), 5_000):
        chunk = keys[start : start + 5_000]
        store.write(f"{start}", {"embeddings": torch.eye(2)[[n % 2 for n in range(5_000)]]}, {"digests": chunk})
    start = time.process_time()
    rows = encoding._encode("text", keys, None, 64, store, keys)
    assert time.process_time() - start < 10 and rows[:3].tolist() == [[1, 0], [0, 1], [1, 0]]


def test_a_killed_run_resumes_after_its_last_complete_file(tmp_path, named, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 4)
    encode = named.encode_image

    def killed(images):
        if len(named.images) >= 6:
            raise KeyboardInterrupt
        return encode(images)

    named.encode_image = killed
    with pytest.raises(KeyboardInterrupt):
        encode_once(named, make_images(12), ["a"], 2, tmp_path)
    named.encode_image = encode
    assert len(named.images) == 6
    resumed = encode_once(named, make_images(12), ["a"], 2, tmp_path)
    assert len(named.images) == 6 + 12 - 4  # one file of four was complete
    assert (resumed.images == encode_once(named, make_images(12), ["a"], 64).images).all()


def test_results_are_the_same_with_and_without_the_cache(tmp_path, named):
    pairs = [vk.Pair(image, captions=(f"a {n}", f"b {n}")) for n, image in enumerate(make_images(9))]
    without = evaluate_retrieval(named, pairs)
    assert evaluate_retrieval(named, pairs, cache=tmp_path) == without
    assert evaluate_retrieval(named, pairs, cache=tmp_path) == without


def test_a_truncated_cache_file_is_named(tmp_path, named):
    encode_once(named, make_images(3), ["a"], 64, tmp_path)
    (path,) = tmp_path.glob("*/image/*.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"{path.name} is not a complete shard .*delete it"):
        encode_once(named, make_images(3), ["a"], 64, tmp_path)


def test_an_encoder_without_a_fingerprint_is_not_cached(tmp_path, random_encoder):
    with pytest.raises(
        TypeError, match="FakeEmbedder has no weights to fingerprint; give it a string attribute 'fingerprint'"
    ):
        encode_once(random_encoder, [], ["a"], 64, tmp_path)


def test_a_model_that_does_not_encode_is_refused_by_its_type():
    with pytest.raises(TypeError, match="a dict has no encode_image: pass an Embedder, as vk.Embedder.lvlm."):
        encode_once({}, [], ["a"], 64)


def test_a_benchmark_sees_the_pixels_that_the_embedder_sees(tmp_path):
    """Transparent pixels are white in both, whatever color lies beneath."""
    Image.new("RGBA", (4, 4), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    seen = []

    class Recording:
        def encode_image(self, images):
            seen.extend(images)
            return np.eye(3, dtype=np.float32)[: len(images)]

    embed_images(Recording(), [tmp_path / "clear.png"], 1)
    assert seen[0].getpixel((0, 0)) == (255, 255, 255)
