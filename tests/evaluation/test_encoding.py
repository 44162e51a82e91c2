import numpy as np
import pytest
import torch
from PIL import Image

from vladva_kit.evaluation.encoding import all_dots, dots, embed_texts, image_key, number_unique


def unit(*shape, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_dot_products_are_exact_sums_rounded_once():
    left, right = unit(5, 300), unit(5, 300, seed=1)
    exact = np.array(
        [sum(float(a) * float(b) for a, b in zip(*rows, strict=True)) for rows in zip(left, right, strict=True)]
    )
    assert dots(left, right).dtype == all_dots(left, right).dtype == np.float32
    assert dots(left, right).tolist() == pytest.approx(exact.tolist(), abs=1e-8)
    assert np.diagonal(all_dots(left, right)).tolist() == dots(left, right).tolist()


@pytest.mark.parametrize("rows", [3, 17, 100, 1025])
def test_equal_embeddings_have_equal_scores_wherever_they_stand(rows):
    scores = all_dots(unit(7, 333), np.repeat(unit(1, 333, seed=1), rows, axis=0))
    assert (scores == scores[:, :1]).all()


def test_keys_tell_images_apart_by_file_or_content(tmp_path):
    red, blue = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    red.save(tmp_path / "red.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "red.png")
    assert image_key(tmp_path / "red.png") == image_key(tmp_path / "link.png")
    assert image_key(red) == image_key(red.copy()) != image_key(blue)
    assert image_key(red) != image_key(Image.new("RGB", (1, 4), "red"))
    assert image_key(b"a") == image_key(b"a") != image_key(b"b")


def test_unique_keys_are_numbered_in_the_order_they_come():
    first, index = number_unique(["b", "a", "b", "c", "a"])
    assert first == [0, 1, 3] and index.tolist() == [0, 1, 0, 2, 1]


def test_tensors_with_gradients_in_bfloat16_and_arrays_are_taken():
    class Encoder:
        def encode_text(self, texts):
            return torch.eye(4, dtype=torch.bfloat16, requires_grad=True)[: len(texts)]

    vectors = embed_texts(Encoder(), ["a", "b", "c"], batch_size=2)
    assert vectors.dtype == np.float32 and vectors.tolist() == np.eye(4)[[0, 1, 0]].tolist()
