"""Maps of the embedding space: points, lines, colors and thumbnails are those of the arrays."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image

from vladva_kit import plots
from vladva_kit.analysis import Projection
from vladva_kit.plots.space import OTHER_COLOR, PALETTE, category_colors, farthest_points


@pytest.fixture
def projection():
    generator = np.random.default_rng(0)
    return Projection(generator.normal(size=(12, 2)), generator.normal(size=(12, 2)), ("across", "up"))


def images(n):
    return [Image.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(n)]


def test_images_and_captions_are_drawn_at_their_points_with_a_line_between(projection):
    axes = plots.embedding_maps({"before": projection}, images(12), ["grass", "sand"] * 6).axes[0]
    dots, triangles = axes.collections[:2]
    assert np.array_equal(dots.get_offsets(), projection.images) and np.array_equal(
        triangles.get_offsets(), projection.texts
    )
    assert [to_hex(color).upper() for color in dots.get_facecolors()] == list(PALETTE[:2]) * 6
    ends = [line.get_xydata() for line in axes.lines]
    assert np.allclose(ends, np.stack([projection.images, projection.texts], 1))
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("across", "up", "before")


def test_thumbnails_are_drawn_at_the_points_of_their_images(projection):
    axes = plots.embedding_maps({"before": projection}, images(12), n_thumbnails=3).axes[0]
    boxes = [child for child in axes.get_children() if isinstance(child, AnnotationBbox)]
    shown = {tuple(box.xy): int(box.offsetbox.get_data()[0, 0, 0]) for box in boxes}
    assert len(shown) == 3
    for point, red in shown.items():
        assert red == 20 * int(np.flatnonzero((projection.images == point).all(1))[0])


def test_the_seven_most_frequent_values_have_colors():
    field = [f"v{n}" for n in range(9) for _ in range(9 - n)]
    colors, legend = category_colors(field, len(field))
    assert legend == {**{f"v{n}": color for n, color in enumerate(PALETTE)}, "others": OTHER_COLOR}
    assert colors == [legend.get(value, OTHER_COLOR) for value in field]
    assert category_colors(None, 2) == ([PALETTE[0]] * 2, {})


# transforms of linear RGB that simulate color blindness: Machado, Oliveira & Fernandes 2009, severity 1
COLOR_VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9690]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def to_lab(color, transform):
    """Convert a color to CIE L*a*b*, in which a distance of 2 is just noticeable and 10 is obvious."""
    rgb = np.array(to_rgb(color))
    linear = np.clip(np.array(transform) @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / [0.9505, 1, 1.089]
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("transform", COLOR_VISION.values(), ids=COLOR_VISION)
def test_map_colors_are_distinguishable_with_color_blindness(transform):
    colors = [to_lab(color, transform) for color in (*PALETTE, OTHER_COLOR)]
    assert min(np.linalg.norm(one - other) for one, other in combinations(colors, 2)) > 14


def test_farthest_points_are_far_from_each_other():
    points = np.array([[0, 0], [0.1, 0], [10, 0], [10, 0.1], [0, 10]])
    chosen = farthest_points(points, 3)
    assert len({tuple(np.round(points[i], -1)) for i in chosen}) == 3
    assert sorted(farthest_points(points, 99)) == [0, 1, 2, 3, 4]


def test_the_title_states_how_many_own_captions_are_nearest(projection):
    title = plots.embedding_maps({"a": projection, "b": Projection(*[projection.images] * 2, ("", ""))}, images(12))
    distances = np.linalg.norm(projection.images[:, None] - projection.texts[None], axis=-1)
    share = 100 * np.mean([row.argmin() == i for i, row in enumerate(distances)])
    answer = f"Images whose nearest caption on the map is their own: a {share:.0f} %, b 100 %"
    assert title.get_suptitle().endswith(answer)


def test_different_numbers_of_points_and_images_raise_an_error(projection):
    with pytest.raises(ValueError, match="11, 12"):
        plots.embedding_maps({"before": projection}, images(11))


def test_variance_is_in_percent_and_the_title_states_the_change():
    before = {"image": np.linspace(0.1, 1, 10), "text": np.array([0.5, 1.0])}
    after = {"image": np.linspace(0.2, 1, 10), "text": np.array([0.25, 0.75])}
    figure = plots.variance_before_after(before, after)
    for axes, side in zip(figure.axes, ("image", "text"), strict=True):
        for line, values in zip(axes.lines, (before, after), strict=True):
            np.testing.assert_allclose(line.get_ydata(), 100 * values[side])
    assert figure.get_suptitle().endswith("Variance in the first 2 components: images 20 → 29 %, captions 100 → 75 %")
