"""The space of the embeddings as pictures: maps with thumbnails, and how far own pairs stand out from all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from vladva_kit.plots.style import BLUE, GRAY, INK, ORANGE, STYLE, checked_matrix, thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

    from vladva_kit.analysis import FlatMap

# Okabe & Ito 2008, without their yellow, which is faint on white; gray is for what is left over.
PALETTE, LEFT_OVER = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222"), "#c4c4c4"


def colors_of(field: Sequence[Any] | None) -> dict[str, str]:
    """A color for each of the seven commonest values: `colors_of(["grass", "sand", "grass"])["grass"]`."""
    common = [value for value, _ in Counter(map(str, () if field is None else field)).most_common(len(PALETTE))]
    return dict(zip(sorted(common), PALETTE, strict=False))


@matplotlib.rc_context(STYLE)
def embedding_maps(
    maps: Mapping[str, FlatMap],
    pictures: Sequence[Image.Image | Path | bytes],
    field: Sequence[Any] | None = None,
    thumbnails: int = 9,
    title: str = "Pictures and captions on one plane",
) -> Figure:
    """A map a model, pictures linked to captions: `embedding_maps({"before": flat_map(images, texts)}, pictures)`.

    `field` colors each pair by a value; a few pictures, far from each other, are drawn where they lie.
    Raises ValueError where there are not as many places, pictures and values.
    """
    counts = {len(places) for one in maps.values() for places in (one.images, one.texts)} | {len(pictures)}
    counts |= set() if field is None else {len(field)}
    if len(counts) != 1:
        raise ValueError(f"{sorted(counts)} places, pictures and values: give as many of each")
    colors = colors_of(field)
    shades = [BLUE] * len(pictures) if field is None else [colors.get(str(value), LEFT_OVER) for value in field]
    figure = Figure(figsize=(4.3 * len(maps), 4.9), layout="constrained")
    figure.suptitle(title)
    for axes, (name, places) in zip(np.ravel(figure.subplots(1, len(maps))), maps.items(), strict=True):
        _map(axes, places, shades)
        for place in spread_places(places.images, thumbnails):
            box = OffsetImage(np.asarray(thumbnail(pictures[place], 64)), zoom=0.36)
            edge = {"edgecolor": shades[place], "linewidth": 1.6}
            axes.add_artist(AnnotationBbox(box, places.images[place], pad=0.1, bboxprops=edge))
        axes.set_title(name, parse_math=False)
    _map_legend(figure, colors, left_over=LEFT_OVER in shades)
    return figure


def spread_places(points: np.ndarray, k: int) -> list[int]:
    """Up to `k` of the points (n, 2) that lie far from each other, the outermost first: `spread_places(points, 9)`."""
    points = np.asarray(points, dtype=np.float64)
    chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmax())]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(k, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def _map(axes: Axes, places: FlatMap, shades: Sequence[str]) -> None:
    for picture, text, shade in zip(places.images, places.texts, shades, strict=True):
        axes.plot(*zip(picture, text, strict=True), color=shade, alpha=0.3, linewidth=0.8, zorder=1)
    axes.scatter(*np.asarray(places.images).T, c=shades, s=22, marker="o", zorder=2, linewidths=0)
    axes.scatter(*np.asarray(places.texts).T, facecolors="white", edgecolors=shades, s=26, marker="^", zorder=2)
    axes.set(xlabel=places.axes[0], ylabel=places.axes[1], xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.1)


def _map_legend(figure: Figure, colors: Mapping[str, str], left_over: bool) -> None:
    axes = figure.axes[0]
    kinds = [axes.scatter([], [], color=GRAY, marker="o", label="picture")]
    kinds.append(axes.scatter([], [], facecolors="white", edgecolors=GRAY, marker="^", label="caption"))
    shown = {**colors, **({"others": LEFT_OVER} if left_over else {})}
    kinds += [axes.scatter([], [], color=color, marker="s", label=value) for value, color in shown.items()]
    legend = figure.legend(handles=kinds, loc="outside lower center", ncols=min(len(kinds), 8), fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)


@matplotlib.rc_context(STYLE)
def pair_similarity_histogram(
    scores: Mapping[str, Any], title: str = "How far own pairs stand out from all others"
) -> Figure:
    """Similarities of pictures with their own captions and with all others, a panel a model, on one axis.

        pair_similarity_histogram({"before": before, "after": after})

    Each matrix is (n, n), picture i belongs to caption i. Raises ValueError for another shape.
    """
    matrices = {name: checked_matrix(values, None, None) for name, values in scores.items()}
    for name, values in matrices.items():
        if values.shape[0] != values.shape[1] or len(values) < 2:
            raise ValueError(f"{name}: scores of shape {values.shape}; picture i must belong to caption i")
    low, high = min(map(np.min, matrices.values())), max(map(np.max, matrices.values()))
    bins = np.linspace(low, high, 61)
    figure = Figure(figsize=(6.4, 1.25 * len(matrices) + 1.3), layout="constrained")
    figure.suptitle(title)
    panels = np.ravel(figure.subplots(len(matrices), 1, sharex=True))
    for panel, (name, values) in zip(panels, matrices.items(), strict=True):
        own = np.eye(len(values), dtype=bool)
        for chosen, color, label, alpha in ((~own, ORANGE, "all others", 0.45), (own, BLUE, "own pairs", 0.6)):
            part = values[chosen]
            shares = np.full(part.size, 100 / part.size)
            panel.hist(part, bins, weights=shares, color=color, alpha=alpha, label=label)
            panel.axvline(part.mean(), color=color, linewidth=2, linestyle="-" if chosen is own else "--")
        better = np.searchsorted(np.sort(values[~own]), values[own]).mean() / (~own).sum()  # strictly above
        panel.set_title(
            f"{name}: an own pair beats another in {better:.1%} of draws", loc="left", fontsize=9, parse_math=False
        )
        panel.set_ylabel("of them (%)")
    panels[0].legend(loc="upper right", bbox_to_anchor=(1, 1.45), ncols=2, fontsize=9)
    panels[-1].set_xlabel("similarity (cosine); lines: means")
    for panel in panels:
        panel.tick_params(colors=INK)
    return figure
