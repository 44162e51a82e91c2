"""The summary token: its attention over an image, and its most likely next tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from vladva_kit.models.images import ImageLike, open_image
from vladva_kit.plots.style import BLUE, GRAY, VERMILION, label_rows, new_figure, show_image, styled, wrap_text

ATTENTION_COLORS = LinearSegmentedColormap.from_list("attention", [(0, f"{VERMILION}00"), (1, f"{VERMILION}e6")])


@styled
def attention_overlay(
    image: ImageLike, maps: Mapping[str, Any], title: str = "Attention of the summary token"
) -> Figure:
    """Plot an image and the attention on each patch: `attention_overlay(image, {"before": before, "after": after})`.

    Each map is (rows, columns) of attention weights that sum to at most 1, as in `SummaryProbe.maps` for one layer and
    head or a mean over them; all maps share one scale. The image must be what the encoder sees
    (`analysis.encoder_crop`). Raises ValueError for no map or an invalid one.
    """
    grids = {name: _check_map(grid, name) for name, grid in maps.items()}
    if not grids:
        raise ValueError("no attention map: give {'before': (rows, columns), …}")
    opened = open_image(image)
    shares = ", ".join(f"{name} {100 * grid.sum():.0f} %" for name, grid in grids.items())
    figure = new_figure(2.5 * (len(grids) + 1) + 0.7, 3.5, title, f"attention on the image: {shares}")
    axes = np.ravel(figure.subplots(1, len(grids) + 1))
    show_image(axes[0], opened, "image")
    highest = 100 * max(float(grid.max()) for grid in grids.values()) or 100.0
    gray = 0.35 + 0.65 * np.asarray(opened.convert("L"), dtype=float) / 255
    for panel, (name, grid) in zip(axes[1:], grids.items(), strict=True):
        show_image(panel, opened, name)
        panel.images[0].set(data=gray, cmap="gray", clim=(0, 1))
        extent = panel.images[0].get_extent()
        overlay = panel.imshow(100 * grid, cmap=ATTENTION_COLORS, vmin=0, vmax=highest, extent=extent)
    bar = figure.colorbar(overlay, ax=list(axes), label="attention per patch (%)", shrink=0.75, aspect=25)
    bar.outline.set_edgecolor(GRAY)
    return figure


def _check_map(grid: Any, name: str) -> np.ndarray:
    values = np.asarray(grid, dtype=np.float64)
    if values.ndim != 2 or not values.size or not (values >= 0).all() or values.sum() > 1 + 1e-4:
        raise ValueError(
            f"map '{name}' has shape {values.shape} and sum {values.sum():.3g}; give (rows, columns) of attention "
            "weights that sum to at most 1: of one layer and head, or a mean over them"
        )
    return values


@styled
def top_next_tokens(
    tokens: Any, probabilities: Any, names: Sequence[str], title: str = "Most likely next tokens"
) -> Figure:
    """Plot next-token probabilities, a panel per row: `top_next_tokens(probe.tokens, probe.probabilities, ["a dog"])`.

    tokens, probabilities: (rows, k), most likely first. Raises ValueError if the shapes differ.
    """
    tokens, percents = np.asarray(tokens), 100 * np.asarray(probabilities, dtype=np.float64)
    if tokens.ndim != 2 or tokens.shape != percents.shape or len(names) != len(tokens):
        raise ValueError(
            f"tokens {tokens.shape}, probabilities {percents.shape}, {len(names)} names; give (rows, k) of each"
        )
    rows, k = tokens.shape
    best = ", ".join(f"“{row[0]}” ({percent[0]:.0f} %)" for row, percent in zip(tokens, percents, strict=True))
    figure = new_figure(3.3 * rows + 0.4, 0.26 * k + 1.7, title, f"first: {best}")
    for axes, row, bars, name in zip(np.ravel(figure.subplots(1, rows)), tokens, percents, names, strict=True):
        axes.bar_label(axes.barh(range(k), bars, color=BLUE, height=0.7), fmt="{:.1f}", padding=3, fontsize=8)
        label_rows(axes, [token or "␣" for token in row])
        axes.set(xlim=(0, 1.25 * bars.max()), xlabel="probability (%)")
        axes.set_title(wrap_text(name, 34, 2), fontweight="normal")
    return figure
