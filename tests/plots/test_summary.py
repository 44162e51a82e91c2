"""Attention overlays and next tokens show the numbers that they are given."""

import numpy as np
import pytest
from PIL import Image

from vladva_kit import plots

IMAGE = Image.new("RGB", (40, 20), "red")


def test_attention_covers_the_whole_image_on_one_scale():
    before, after = np.array([[0.5, 0.0]]), np.array([[0.0, 0.25], [0.125, 0.0]])
    figure = plots.attention_overlay(IMAGE, {"before": before, "after": after})
    image, first, second, bar = figure.axes
    assert np.array_equal(image.images[0].get_array(), np.asarray(IMAGE))
    for axes, grid in ((first, before), (second, after)):
        gray, overlay = axes.images
        assert gray.get_array().shape == (20, 40) and gray.get_clim() == (0, 1)
        assert np.array_equal(overlay.get_array(), 100 * grid) and overlay.get_clim() == (0, 50)
        assert overlay.get_extent() == gray.get_extent() == [-0.5, 39.5, 19.5, -0.5]
    assert bar.get_ylabel() == "attention per patch (%)"
    assert [axes.get_title() for axes in (first, second)] == ["before", "after"]
    assert figure.get_suptitle().endswith("Attention on the image: before 50 %, after 38 %")


@pytest.mark.parametrize("grid", [np.zeros((2, 2, 2)), np.full((2, 2), 0.5), -np.ones((1, 1)), np.zeros((0, 2))])
def test_invalid_maps_raise_errors(grid):
    with pytest.raises(ValueError, match="map 'wrong'"):
        plots.attention_overlay(IMAGE, {"wrong": grid})
    with pytest.raises(ValueError, match="no attention map"):
        plots.attention_overlay(IMAGE, {})


def test_next_tokens_have_bars_of_their_probability():
    tokens = np.array([["dog", "cat"], ["sun", ""]])
    figure = plots.top_next_tokens(tokens, [[0.5, 0.25], [0.9, 0.01]], ["an image", "a caption"])
    for axes, row, expected in zip(figure.axes, tokens, ([50, 25], [90, 1]), strict=True):
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(expected)
        assert [label.get_text() for label in axes.get_yticklabels()] == [token or "␣" for token in row]
    assert figure.get_suptitle().endswith("First: “dog” (50 %), “sun” (90 %)")
    with pytest.raises(ValueError, match=r"tokens \(2, 2\), probabilities \(1, 2\)"):
        plots.top_next_tokens(tokens, [[0.5, 0.25]], ["a"])
