"""The overlay: every patch where it lies, one scale, and sums that are said."""

import numpy as np
import pytest
from PIL import Image

from vladva_kit.plots.attention import attention_overlay

PICTURE = Image.new("RGB", (40, 20), "red")


def test_each_map_lies_over_the_whole_picture_in_one_scale_of_percent():
    before, after = np.array([[0.5, 0.0]]), np.array([[0.0, 0.25], [0.125, 0.0]])
    figure = attention_overlay(PICTURE, {"before": before, "after": after})
    picture, first, second, bar = figure.axes
    assert np.array_equal(picture.images[0].get_array(), np.asarray(PICTURE))
    for axes, grid in ((first, before), (second, after)):
        under, over = axes.images
        assert np.array_equal(over.get_array(), 100 * grid) and over.get_clim() == (0, 50)
        assert over.get_extent() == under.get_extent() == [-0.5, 39.5, 19.5, -0.5]
    assert first.get_xlabel().startswith("50% of the attention") and second.get_xlabel().startswith("38%")
    assert bar.get_ylabel() == "attention on a patch (%)"
    assert [axes.get_title() for axes in (first, second)] == ["before", "after"]


@pytest.mark.parametrize("grid", [np.zeros((2, 2, 2)), np.full((2, 2), 0.5), -np.ones((1, 1)), np.zeros((0, 2))])
def test_what_is_no_map_of_parts_is_refused(grid):
    with pytest.raises(ValueError, match="the map 'wrong'"):
        attention_overlay(PICTURE, {"wrong": grid})
    with pytest.raises(ValueError, match="no attention map"):
        attention_overlay(PICTURE, {})
