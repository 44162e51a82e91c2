"""The embedding space: 2-D maps with thumbnails, and the variance along principal components."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from vladva_kit.models.images import ImageLike
from vladva_kit.plots.style import BLUE, GRAY, ORANGE, new_figure, styled, thumbnail

if TYPE_CHECKING:
    from vladva_kit.analysis import Projection

# Okabe & Ito 2008, without yellow, which is faint on white
PALETTE, OTHER_COLOR = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222"), "#c4c4c4"


def category_colors(field: Sequence[Any] | None, n: int) -> tuple[list[str], dict[str, str]]:
    """Return a color for each of n pairs, and the legend: `category_colors(["grass", "sand", "grass"], 3)`.

    Each of the seven most frequent values has a color, all others share one. Without a field, all pairs are blue.
    """
    if field is None:
        return [BLUE] * n, {}
    common = [value for value, _ in Counter(map(str, field)).most_common(len(PALETTE))]
    legend = dict(zip(sorted(common), PALETTE, strict=False))
    colors = [legend.get(str(value), OTHER_COLOR) for value in field]
    return colors, legend | ({"others": OTHER_COLOR} if OTHER_COLOR in colors else {})


@styled
def embedding_maps(
    maps: Mapping[str, Projection],
    images: Sequence[ImageLike],
    field: Sequence[Any] | None = None,
    n_thumbnails: int = 9,
    title: str = "Images and captions in two dimensions",
) -> Figure:
    """Plot a map per model, with lines from images to captions: `embedding_maps({"base": projection}, images)`.

    `field` colors each pair by a value; a few images, far from each other, are shown as thumbnails. Raises ValueError
    if the numbers of points, images and values differ.
    """
    counts = {len(points) for one in maps.values() for points in (one.images, one.texts)} | {len(images)}
    counts |= set() if field is None else {len(field)}
    if len(counts) != 1:
        raise ValueError(f"{sorted(counts)} points, images and values: give the same number of each")
    colors, legend = category_colors(field, len(images))
    shares = ", ".join(f"{name} {100 * _nearest_caption_share(one):.0f} %" for name, one in maps.items())
    answer = f"images whose nearest caption on the map is their own: {shares}"
    figure = new_figure(max(4.3 * len(maps), 5.0), 5.1, title, answer)
    for axes, (name, projection) in zip(np.ravel(figure.subplots(1, len(maps))), maps.items(), strict=True):
        _draw_map(axes, projection, colors)
        for i in farthest_points(projection.images, n_thumbnails):
            box = OffsetImage(np.asarray(thumbnail(images[i], 64)), zoom=0.36)
            edge = {"edgecolor": colors[i], "linewidth": 1.6}
            axes.add_artist(AnnotationBbox(box, projection.images[i], pad=0.1, bboxprops=edge))
        axes.set_title(name)
    handles = [axes.scatter([], [], color=GRAY, marker="o", label="image")]
    handles += [axes.scatter([], [], facecolors="white", edgecolors=GRAY, marker="^", label="caption")]
    handles += [axes.scatter([], [], color=color, marker="s", label=value) for value, color in legend.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), fontsize=9)
    return figure


def _nearest_caption_share(projection: Projection) -> float:
    """Share of the images whose own caption is the nearest one in the plane, 0 to 1."""
    images, texts = (np.asarray(points, dtype=np.float64) for points in (projection.images, projection.texts))
    squares = (texts**2).sum(1) - 2 * images @ texts.T  # squared distances, up to a constant per image
    return float(np.mean(squares.argmin(1) == np.arange(len(images))))


def farthest_points(points: np.ndarray, k: int) -> list[int]:
    """Choose up to k points (n, 2) that are far from each other, the outermost first: `farthest_points(points, 9)`."""
    points = np.asarray(points, dtype=np.float64)
    chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmax())]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(k, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def _draw_map(axes: Axes, projection: Projection, colors: Sequence[str]) -> None:
    for image, text, color in zip(projection.images, projection.texts, colors, strict=True):
        axes.plot(*zip(image, text, strict=True), color=color, alpha=0.3, linewidth=0.8, zorder=1)
    (image_x, image_y), (text_x, text_y) = np.asarray(projection.images).T, np.asarray(projection.texts).T
    axes.scatter(image_x, image_y, c=colors, s=22, marker="o", zorder=2, linewidths=0)
    axes.scatter(text_x, text_y, facecolors="white", edgecolors=colors, s=26, marker="^", zorder=2)
    axes.set(xlabel=projection.axes[0], ylabel=projection.axes[1], xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.1)


@styled
def variance_before_after(
    before: Mapping[str, Any], after: Mapping[str, Any], title: str = "Variance explained by principal components"
) -> Figure:
    """Plot the cumulative variance of image and text embeddings before and after fine-tuning.

    variance_before_after({"image": spectrum(images).cumulative, "text": spectrum(texts).cumulative}, after)
    """
    sides = {"image": "images", "text": "captions"}
    k = min(10, *(len(values[side]) for values in (before, after) for side in sides))
    ends = {name: [100 * values[side][k - 1] for values in (before, after)] for side, name in sides.items()}
    shares = (f"{name} {first:.0f} → {last:.0f} %" for name, (first, last) in ends.items())
    figure = new_figure(7.0, 3.4, title, f"variance in the first {k} components: {', '.join(shares)}")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (side, name) in zip(panels, sides.items(), strict=True):
        for values, label, color, line in ((before, "before", ORANGE, "--"), (after, "after", BLUE, "-")):
            cumulative = 100 * np.asarray(values[side], dtype=float)
            axes.plot(range(1, len(cumulative) + 1), cumulative, line, color=color, label=f"{label} fine-tuning")
        axes.set_title(name, fontweight="normal")
        axes.set(xlabel="principal components", ylim=(0, 101))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("explained variance (%)")
    panels[0].legend(loc="lower right")
    return figure
