"""The probe and the map against plain least squares, on embeddings whose order is known."""

import numpy as np
import pytest

from vladva_kit.analysis import linear_map, linear_probe, order_loss


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_map_equals_plain_least_squares_with_the_penalty_as_rows(rng):
    texts, images = unit(rng.normal(size=(60, 9))), unit(rng.normal(size=(60, 9)))
    for ridge in (1e-9, 0.5):
        rows = np.vstack([texts, np.sqrt(ridge) * np.eye(9)])
        expected = np.linalg.lstsq(rows, np.vstack([images, np.zeros((9, 9))]), rcond=None)[0]
        assert np.allclose(linear_map(texts, images, ridge), expected, atol=1e-7)


def test_the_probe_equals_plain_least_squares_on_one_hot_labels(rng):
    embeddings, labels = rng.normal(size=(80, 5)), rng.integers(0, 3, 80)
    held_out = np.arange(80) >= 50
    rows = np.hstack([embeddings, np.ones((80, 1))])
    weights = np.linalg.lstsq(rows[:50], np.eye(3)[labels[:50]], rcond=None)[0]
    expected = (rows[50:] @ weights).argmax(1)
    assert linear_probe(embeddings, labels, held_out, ridge=1e-9).tolist() == expected.tolist()


def test_order_in_both_encoders_but_in_other_directions_is_recovered_by_the_map(rng):
    content, order = rng.normal(size=(400, 4)), rng.choice([-1.0, 1.0], size=(400, 1))
    zero = np.zeros_like(order)
    images = unit(np.hstack([content, order, zero]))
    texts, swapped = (unit(np.hstack([content, zero, sign * order])) for sign in (1, -1))
    found = order_loss(images, texts, swapped, order[:, 0] > 0, np.arange(400) >= 300)
    assert found.image_probe == found.text_probe == 1 and found.probe_chance < 0.65
    assert found.matched == 0 and found.matched_after_map == 1  # the captions tie before


def test_order_that_the_text_encoder_lacks_is_not_recovered(rng):
    content, order = rng.normal(size=(400, 4)), rng.choice([-1.0, 1.0], size=(400, 1))
    images, texts = unit(np.hstack([content, order])), unit(np.hstack([content, 0 * order]))
    found = order_loss(images, texts, texts, order[:, 0] > 0, np.arange(400) >= 300)
    assert found.image_probe == 1 and found.text_probe < 0.65 and found.matched_after_map == 0


def test_unusable_input_is_explained(rng):
    rows, labels = rng.normal(size=(6, 3)), ["a", "a", "b", "b", "a", "c"]
    with pytest.raises(ValueError, match="the label 'c' is held out only"):
        linear_probe(rows, labels, [False] * 5 + [True])
    with pytest.raises(ValueError, match="pass a bool each, some of both values"):
        linear_probe(rows, labels, [False] * 6)
    with pytest.raises(ValueError, match="5 embeddings for 6 labels"):
        linear_probe(rows[:5], labels, [True] + [False] * 5)
    with pytest.raises(ValueError, match="6 images for 5 texts"):
        linear_map(rows[:5], rows)
