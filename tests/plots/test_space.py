"""Figures of the embeddings' space: places, colors and shares are those of the arrays."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image

from vladva_kit.analysis import FlatMap
from vladva_kit.plots.space import (
    LEFT_OVER,
    PALETTE,
    colors_of,
    embedding_maps,
    pair_similarity_histogram,
    spread_places,
)


@pytest.fixture
def places():
    generator = np.random.default_rng(0)
    return FlatMap(generator.normal(size=(12, 2)), generator.normal(size=(12, 2)), ("across", "up"))


def walls(n):
    return [Image.new("RGB", (8, 8), (20 * place, 0, 0)) for place in range(n)]


def test_pictures_and_captions_lie_where_the_map_has_them_with_a_line_between(places):
    axes = embedding_maps({"before": places}, walls(12), ["grass", "sand"] * 6).axes[0]
    dots, triangles = axes.collections[:2]
    assert np.array_equal(dots.get_offsets(), places.images) and np.array_equal(triangles.get_offsets(), places.texts)
    assert [to_hex(color).upper() for color in dots.get_facecolors()] == list(PALETTE[:2]) * 6
    ends = [line.get_xydata() for line in axes.lines]
    assert np.allclose(ends, np.stack([places.images, places.texts], 1))
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("across", "up", "before")


def test_a_few_pictures_stand_where_they_lie(places):
    axes = embedding_maps({"before": places}, walls(12), thumbnails=3).axes[0]
    boxes = [child for child in axes.get_children() if isinstance(child, AnnotationBbox)]
    shown = {tuple(box.xy): int(box.offsetbox.get_data()[0, 0, 0]) for box in boxes}
    assert len(shown) == 3
    for place, (point, red) in enumerate(shown.items()):
        assert red == 20 * int(np.flatnonzero((places.images == point).all(1))[0]), place


def test_the_rarest_values_of_more_than_seven_are_gray():
    field = [f"v{n}" for n in range(9) for _ in range(9 - n)]
    colors = colors_of(field)
    assert list(colors) == [f"v{n}" for n in range(7)] and LEFT_OVER not in colors.values()
    assert colors_of(None) == {}


# how colors are seen without one kind of cone, on linear RGB: Machado, Oliveira & Fernandes 2009, severity 1
WITHOUT_A_CONE = {
    "all cones": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9690]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def in_lab(color, seen):
    """CIE L*a*b* of a color as it is seen; there a distance of 2 can just be told, 10 at a glance."""
    rgb = np.array(to_rgb(color))
    linear = np.clip(np.array(seen) @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / [0.9505, 1, 1.089]
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("seen", WITHOUT_A_CONE.values(), ids=WITHOUT_A_CONE)
def test_no_two_colors_of_a_map_are_taken_for_each_other_by_whoever_lacks_a_cone(seen):
    colors = [in_lab(color, seen) for color in (*PALETTE, LEFT_OVER)]
    assert min(np.linalg.norm(one - other) for one, other in combinations(colors, 2)) > 14


def test_spread_places_are_far_from_each_other():
    points = np.array([[0, 0], [0.1, 0], [10, 0], [10, 0.1], [0, 10]])
    chosen = spread_places(points, 3)
    assert len({tuple(np.round(points[place], -1)) for place in chosen}) == 3
    assert sorted(spread_places(points, 99)) == [0, 1, 2, 3, 4]


def test_own_pairs_and_others_are_counted_in_percent_on_one_axis():
    generator = np.random.default_rng(1)
    before, after = generator.uniform(0.4, 0.6, (5, 5)), generator.uniform(-1, 1, (5, 5))
    figure = pair_similarity_histogram({"before": before, "after": after})
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    own = np.diag(after)
    others = [after[i, j] for i in range(5) for j in range(5) if i != j]
    wins = np.mean([a > b for a in own for b in others])
    assert f"after: an own pair beats another in {wins:.1%} of draws" in figure.axes[1].get_title(loc="left")
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert sum(heights[:60]) == pytest.approx(100) and sum(heights[60:120]) == pytest.approx(100)
    assert [line.get_xdata()[0] for line in figure.axes[1].lines] == pytest.approx([np.mean(others), own.mean()])


def test_what_does_not_fit_is_refused(places):
    with pytest.raises(ValueError, match="11, 12"):
        embedding_maps({"before": places}, walls(11))
    with pytest.raises(ValueError, match=r"after: scores of shape \(2, 3\)"):
        pair_similarity_histogram({"after": np.zeros((2, 3))})
