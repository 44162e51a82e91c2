"""Where the summary token looks, over the picture itself: the picture in gray, the attention in one color."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from vladva_kit.models.images import open_image
from vladva_kit.plots.style import GRAY, STYLE, VERMILION, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

GLOW = LinearSegmentedColormap.from_list("glow", [(0, f"{VERMILION}00"), (1, f"{VERMILION}e6")])


@matplotlib.rc_context(STYLE)
def attention_overlay(
    picture: Image.Image | Path | bytes, maps: Mapping[str, Any], title: str = "Where the summary token looks"
) -> Figure:
    """A picture, and the attention on each of its patches: `attention_overlay(picture, {"before": a, "after": b})`.

    Each map is (rows, columns), parts of all the attention (0 to 1), as `SummaryReading.maps` has them for one layer
    and head; the picture is the part that the tower reads (`analysis.seen_part`). All maps share one scale.
    Raises ValueError for no map, or one that is no matrix of parts.
    """
    grids = {name: checked_map(grid, name) for name, grid in maps.items()}
    if not grids:
        raise ValueError("no attention map: give {'before': (rows, columns), …}")
    seen = open_image(picture)
    figure = Figure(figsize=(2.5 * (len(grids) + 1) + 0.7, 3.5), layout="constrained")
    figure.suptitle(title)
    axes = np.ravel(figure.subplots(1, len(grids) + 1))
    _bare(axes[0], "the picture")
    axes[0].imshow(np.asarray(seen))
    most = max(float(grid.max()) for grid in grids.values()) or 1.0
    gray = 0.35 + 0.65 * np.asarray(seen.convert("L"), dtype=float) / 255
    for panel, (name, grid) in zip(axes[1:], grids.items(), strict=True):
        _bare(panel, name)
        panel.imshow(gray, cmap="gray", vmin=0, vmax=1)
        drawn = panel.imshow(
            100 * grid, cmap=GLOW, vmin=0, vmax=100 * most, extent=(-0.5, seen.width - 0.5, seen.height - 0.5, -0.5)
        )
        panel.set_xlabel(f"{grid.sum():.0%} of the attention\nis on the picture", fontsize=9)
    bar = figure.colorbar(drawn, ax=list(axes), label="attention on a patch (%)", shrink=0.75, aspect=25)
    bar.outline.set_edgecolor(GRAY)
    return figure


def checked_map(grid: Any, name: str) -> np.ndarray:
    """A map as float64, or a ValueError that says what does not fit."""
    values = np.asarray(grid, dtype=np.float64)
    if values.ndim != 2 or not values.size or not (values >= 0).all() or values.sum() > 1 + 1e-4:
        raise ValueError(
            f"the map '{name}' has shape {values.shape} and the sum {values.sum():.3g}; needed is (rows, columns) of "
            "parts of the attention, 0 to 1 together: of one layer and head, or a mean over them"
        )
    return values


def _bare(axes: Axes, title: str) -> None:
    bare(axes)
    axes.set_title(title, parse_math=False)
