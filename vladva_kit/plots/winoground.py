"""One Winoground case as a figure: two pictures, two captions, and what each model makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import seaborn
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vladva_kit.evaluation.metrics import winoground
from vladva_kit.models.images import open_image
from vladva_kit.plots.style import BLUE, INK, STYLE, VERMILION, bare, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image


@matplotlib.rc_context(STYLE)
def winoground_case(
    images: Sequence[Image.Image | Path | bytes],
    captions: Sequence[str],
    scores: Mapping[str, Any],
    title: str = "Which caption belongs to which picture?",
) -> Figure:
    """Two pictures, two captions, and what each model makes of them: `winoground_case(case.images, case.captions, {
    "base": case.similarities})`.

    `scores[model][i][c]` (2, 2) is the similarity of picture i with caption c; i belongs to c where i == c, and those
    cells are framed. Raises ValueError unless there are two pictures, two captions, and at least one model's (2, 2).
    """
    grids = {name: np.asarray(grid, dtype=np.float64) for name, grid in scores.items()}
    shapes = {grid.shape for grid in grids.values()}
    if len(images) != 2 or len(captions) != 2 or shapes != {(2, 2)}:
        raise ValueError(
            f"{len(images)} images, {len(captions)} captions, scores of shapes {sorted(shapes) or 'none'}; "
            "a case is two images, two captions and a (2, 2) score grid for each model"
        )
    figure = Figure(figsize=(max(7.2, 2.3 * len(grids) + 0.6), 6.0), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    above.suptitle(title)
    for place, (axes, image, caption) in enumerate(zip(above.subplots(1, 2), images, captions, strict=True), start=1):
        axes.imshow(np.asarray(open_image(image)))
        bare(axes)
        axes.set_title(f"picture {place}")
        axes.set_xlabel(wrapped(f"caption {place}: {caption}", 44, 4), parse_math=False)
    row = np.ravel(below.subplots(1, len(grids)))
    for axes, (name, grid) in zip(row, grids.items(), strict=True):
        _draw_grid(axes, name, grid, captioned=axes is row[0])
    below.supxlabel("numbers: similarities; framed: what belongs together", fontsize=9)
    return figure


def _draw_grid(axes: Axes, name: str, grid: np.ndarray, captioned: bool) -> None:
    """One model's four similarities, captions as rows, with its verdict below."""
    texts = [[f"{value:.{decimals(grid)}f}" for value in row] for row in grid.T]
    seaborn.heatmap(
        grid.T,
        ax=axes,
        annot=np.array(texts),
        fmt="",
        cmap="Blues",
        vmax=grid.max() + 0.6 * np.ptp(grid),  # pale enough for dark figures
        cbar=False,
        square=True,
        linewidths=2,
        xticklabels=["picture 1", "picture 2"],
        yticklabels=["caption 1", "caption 2"] if captioned else False,
        annot_kws={"color": INK},
    )
    for i in range(2):
        axes.add_patch(Rectangle((i + 0.03, i + 0.03), 0.94, 0.94, fill=False, edgecolor=INK, linewidth=1.8))
    right = verdict(grid)
    axes.set_title(name, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xlabel("   ".join(f"{part} {'✓' if is_right else '✗'}" for part, is_right in right.items()))
    axes.xaxis.label.set(color=BLUE if right["group"] else VERMILION, fontweight="bold")


def verdict(grid: Any) -> dict[str, bool]:
    """What a model has right of one Winoground case: `verdict([[0.9, 0.1], [0.2, 0.8]])["group"]` is True."""
    scores = winoground(np.asarray(grid, dtype=np.float64)[None])
    return {"text": bool(scores.text[0]), "image": bool(scores.image[0]), "group": bool(scores.group[0])}


def decimals(values: Any, fewest: int = 2, most: int = 6) -> int:
    """Decimals at which different values look different: `decimals([0.91231, 0.91229]) == 5`."""
    different = np.unique(np.asarray(values, dtype=np.float64))
    enough = (n for n in range(fewest, most) if len({f"{value:.{n}f}" for value in different}) == len(different))
    return next(enough, most)
