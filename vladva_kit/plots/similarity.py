"""Similarities of images and captions as heatmaps and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vladva_kit.evaluation.metrics import ranks
from vladva_kit.models.images import ImageLike
from vladva_kit.plots.style import (
    BLUE,
    INK,
    ORANGE,
    VERMILION,
    check_matrix,
    new_figure,
    show_image,
    styled,
    thumbnail,
    wrap_text,
)

MAX_ANNOTATED = 12  # up to so many rows and columns, each cell shows its value
MAX_MARKED = 24  # up to so many, the matching and the best cells are marked
CELL = 0.44  # inches of an annotated or labeled cell


@styled
def similarity_matrix(
    scores: Any,
    images: Sequence[ImageLike] | None = None,
    texts: Sequence[str] | None = None,
    title: str = "Similarity of images and captions",
) -> Figure:
    """Plot the score of every caption with every image: `similarity_matrix(scores, images, captions)`.

    `scores` is (n_images, n_texts); images become columns, captions rows. In a square matrix image i belongs to caption
    i. Raises ValueError for another shape, NaN, or a wrong number of images or texts.
    """
    values = check_matrix(scores, images, texts)
    figure, _ = _draw_matrices([values], [values], images, texts, title, "similarity (cosine)")
    return figure


@styled
def similarity_before_after(
    before: Any,
    after: Any,
    images: Sequence[ImageLike] | None = None,
    texts: Sequence[str] | None = None,
    title: str = "Similarity of images and captions",
) -> Figure:
    """Plot two matrices (n_images, n_texts) side by side: `similarity_before_after(before, after, images, captions)`.

    The cosines of an LVLM without fine-tuning lie in a narrow range, so the colors show standardized values (mean 0,
    standard deviation 1) on one scale, and the numbers are the cosines. Raises ValueError as `similarity_matrix`, and
    if the shapes differ.
    """
    matrices = [check_matrix(scores, images, texts) for scores in (before, after)]
    if matrices[0].shape != matrices[1].shape:
        raise ValueError(f"before is {matrices[0].shape}, after {matrices[1].shape}; score the same pairs both times")
    colors = [(values - values.mean()) / (values.std() if np.ptp(values) else 1) for values in matrices]
    scale = "similarity, standardized\n(standard deviations)"
    figure, panels = _draw_matrices(matrices, colors, images, texts, title, scale)
    for axes, values, label in zip(panels, matrices, ("before", "after"), strict=True):
        span = f"cosines {values.min():.2f} to {values.max():.2f}".replace("-", "−")
        axes.set_title(f"{label} fine-tuning: {span}", fontweight="normal")
    return figure


def retrieval_sentence(*matrices: np.ndarray) -> str:
    """Say how many captions of (n, n) scores rank their own image strictly first; "" for other shapes.

    retrieval_sentence(before, after)    # "captions that rank their own image first: 3 → 7 of 8"
    """
    n = len(matrices[0])
    if matrices[0].shape != (n, n):
        return ""
    counts = [str((ranks(values.T, np.eye(n, dtype=bool)).rank == 0).sum()) for values in matrices]
    if len(counts) == 1:
        return f"{counts[0]} of {n} captions rank their own image first"
    return f"captions that rank their own image first: {' → '.join(counts)} of {n}"


def _draw_matrices(
    matrices: Sequence[np.ndarray], colors: Sequence[np.ndarray], images: Any, texts: Any, title: str, scale: str
) -> tuple[Figure, Sequence[Axes]]:
    """Draw matrices side by side with one color scale; return the figure and the panels."""
    n, (columns, rows) = len(matrices), matrices[0].shape
    labeled = images is not None or texts is not None or max(columns, rows) <= MAX_ANNOTATED
    cell = CELL if labeled else 3.4 / max(columns, rows)
    width = n * max(cell * columns, 2.4) + (3.2 if texts is not None else 1.6)
    height = cell * (rows + (images is not None)) + 1.5
    figure = new_figure(max(width, 4.4), height, title, retrieval_sentence(*matrices))
    panels = np.ravel(figure.subplots(1, n))
    limits = min(map(np.min, colors)), max(map(np.max, colors))
    for axes, values, shades in zip(panels, matrices, colors, strict=True):
        draw_heatmap(axes, values, shades, limits, fontsize=7.5)
        for i, image in enumerate(images if images is not None else ()):
            axes.imshow(np.asarray(thumbnail(image)), extent=(i + 0.03, i + 0.97, -0.1, -1.04), aspect="equal")
        axes.set(xlim=(0, columns), ylim=(rows, 0 if images is None else -1.1), xlabel="image")
    if texts is None:
        panels[0].set_ylabel("caption")
    else:
        labels = [wrap_text(text, 30, 3) for text in texts]
        panels[0].set_yticks(np.arange(rows) + 0.5, labels, fontsize=8, parse_math=False)
    notes = ["frame: the caption's own image"] if columns == rows else []
    notes += ["dot: the image with the caption's highest score"]
    figure.supxlabel(("\n" if n == 1 else "; ").join(notes) if max(columns, rows) <= MAX_MARKED else "", fontsize=9)
    figure.colorbar(panels[0].collections[0], ax=list(panels), label=scale, shrink=0.8, aspect=30)
    return figure, list(panels)


def draw_heatmap(
    axes: Axes, values: np.ndarray, colors: np.ndarray, limits: tuple[float, float], fontsize: float, decimals: int = 2
) -> None:
    """Draw scores (n_images, n_captions) with images as columns, colored by `colors`.

    Small matrices show the values, frame each caption's own image and mark the image with its highest score.
    """
    columns, rows = values.shape
    annotated, (low, high) = max(columns, rows) <= MAX_ANNOTATED, limits
    texts = np.array([[f"{value:z.{decimals}f}".replace("-", "−") for value in row] for row in values.T])
    seaborn.heatmap(
        colors.T, vmin=low, vmax=high, cmap="Blues", square=True, cbar=False, ax=axes, xticklabels=False, fmt="",
        yticklabels=False, annot=texts if annotated else None, annot_kws={"fontsize": fontsize}, rasterized=True,
    )  # fmt: skip
    axes.tick_params(length=0)
    for text, color in zip(axes.texts, colors.T.ravel(), strict=False):
        text.set_color("white" if color > low + 0.6 * (high - low) else INK)
    if max(columns, rows) <= MAX_MARKED:
        for i in range(rows if columns == rows else 0):
            axes.add_patch(Rectangle((i + 0.04, i + 0.04), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.4))
        best, caption = np.nonzero(values == values.max(axis=0))  # all images that tie
        x, y, size = (0.86, 0.16, 4.5) if annotated else (0.5, 0.5, 6)
        axes.plot(best + x, caption + y, "o", color=VERMILION, markeredgecolor="white", markersize=size)


@styled
def pair_similarity_histogram(
    scores: Mapping[str, Any], title: str = "Similarity of matching and non-matching pairs"
) -> Figure:
    """Plot similarities of matching and other pairs: `pair_similarity_histogram({"before": before, "after": after})`.

    The panels share one axis. Each matrix is (n, n): image i belongs to caption i. Raises ValueError for another shape.
    """
    matrices = {name: check_matrix(values, square=True) for name, values in scores.items()}
    bins = np.linspace(min(map(np.min, matrices.values())), max(map(np.max, matrices.values())), 61)
    figure = new_figure(6.4, 1.25 * len(matrices) + 1.3, title)
    panels = np.ravel(figure.subplots(len(matrices), 1, sharex=True))
    for panel, (name, values) in zip(panels, matrices.items(), strict=True):
        matching = np.eye(len(values), dtype=bool)
        groups = ((~matching, ORANGE, "non-matching", 0.45, "--"), (matching, BLUE, "matching", 0.6, "-"))
        for chosen, color, label, alpha, line in groups:
            part = values[chosen]
            panel.hist(part, bins, weights=np.full(part.size, 100 / part.size), color=color, alpha=alpha, label=label)
            panel.axvline(part.mean(), color=color, linewidth=2, linestyle=line)
        wins = np.searchsorted(np.sort(values[~matching]), values[matching]).mean()  # ties are not wins
        share = 100 * wins / (~matching).sum()
        panel.set_title(f"{name}: matching pairs score higher in {share:.1f} % of comparisons", loc="left", fontsize=9)
        panel.set_ylabel("share (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    panels[-1].set_xlabel("similarity (cosine); lines: means")
    return figure


@styled
def hardest_pairs(
    scores: Any, images: Sequence[ImageLike], captions: Sequence[str], k: int = 4, title: str = "Hardest captions"
) -> Figure:
    """Show the k captions whose own image trails the best other image most: `hardest_pairs(scores, images, captions)`.

    `scores` is (n, n), and image i belongs to caption i. Raises ValueError for another shape.
    """
    values = check_matrix(scores, images, captions, square=True)
    ranked = ranks(values.T, np.eye(len(values), dtype=bool))
    answer = f"{(ranked.margin <= 0).sum()} of {len(values)} captions score another image at least as high as their own"
    hardest = np.argsort(ranked.margin, kind="stable")[:k]
    figure = new_figure(7.0, 1.75 * len(hardest) + 0.9, title, answer)
    rows = figure.subplots(len(hardest), 3, squeeze=False, width_ratios=(1.5, 1, 1))
    for (text, left, right), i in zip(rows, hardest, strict=True):
        text.axis("off")
        text.text(1, 0.5, wrap_text(captions[i], 30, 5), ha="right", va="center", transform=text.transAxes)
        own = left, i, ranked.margin[i], f"rank {ranked.rank[i] + 1} of {len(values)}"
        other = right, ranked.hardest_negative[i], -ranked.margin[i], "best other"
        for panel, image, margin, note in (own, other):
            show_image(panel, thumbnail(images[image]))
            color = BLUE if margin > 0 else VERMILION
            panel.set_xlabel(f"{values[image, i]:.3f}, {note}", fontsize=9, color=color)
    rows[0][1].set_title("its own image")
    rows[0][2].set_title("best other image")
    figure.supxlabel("similarity with the caption (cosine); blue: the higher of the two", fontsize=9)
    return figure
