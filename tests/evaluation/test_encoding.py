"""Exact scores, image keys, and the cache of embeddings."""

import numpy as np
import pytest
import torch
from PIL import Image

import vladva_kit as vk
from vladva_kit.evaluation import encoding, evaluate_retrieval
from vladva_kit.evaluation.encoding import all_dots, dots, embed_images, embed_texts, encode_once, image_key


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


def test_image_keys_depend_on_the_file_or_the_content(tmp_path):
    red, blue = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    red.save(tmp_path / "red.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "red.png")
    assert image_key(tmp_path / "red.png") == image_key(tmp_path / "link.png")
    assert image_key(red) == image_key(red.copy()) != image_key(blue)
    assert image_key(red) != image_key(Image.new("RGB", (1, 4), "red"))
    assert image_key(b"a") == image_key(b"a") != image_key(b"b")


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
