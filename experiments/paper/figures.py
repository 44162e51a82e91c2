"""One figure a claim, from the results of `vladva ablate`; a figure whose cells were not run is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.paper.plan import BASE, FULL
from experiments.paper.tables import cells_of, figure_of
from vladva_kit.plots.study import loss_curves, prompt_scatter, variance_before_after
from vladva_kit.plots.style import BLUE, GRAY, INK, LOOKS, ORANGE, STYLE, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.paper.statistics import Estimate

RETRIEVAL = tuple(
    f"{way} R@1, {style}" for style in ("seen", "unseen style") for way in ("text → image", "image → text")
)
COMPOSITION = tuple(
    f"{name}, {style}"
    for style in ("seen", "unseen style")
    for name in ("SugarCrepe replace", "SugarCrepe swap", "SugarCrepe add", "Winoground group")
)
SHOWN = 5  # percent that guessing gets, from which on its line is drawn: R@1 of hundreds has the axis for itself
TALK = tuple(
    f"{name}, adapter {state}, seen"
    for name in ("question accuracy", "caption truth", "second turn")
    for state in ("on", "off")
)


@matplotlib.rc_context(STYLE)
def rows_over_columns(results: Mapping[str, Any], experiment: str, columns: Sequence[str], title: str) -> Figure:
    """An experiment's rows, a panel a column: mean over the seeds, 95 % interval over the cases, guessing dotted.

    rows_over_columns(results, "components", RETRIEVAL, "What each part adds to retrieval")
    """
    rows = [row["name"] for row in results["experiments"][experiment]["rows"]]
    found = {column: [figure_of(results, experiment, row, column) for row in rows] for column in columns}
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    figure = Figure(figsize=(2.3 * across + 1.6, down * (0.32 * len(rows) + 1.0) + 0.5), layout="constrained")
    figure.suptitle(title)
    panels = np.ravel(figure.subplots(down, across, sharey=True, squeeze=False))
    guesses = {column: max(one.chance for one in estimates if one) for column, estimates in found.items()}
    for axes, (column, estimates) in zip(panels, found.items(), strict=False):
        _panel(axes, estimates, rows, column)
        if guesses[column] >= SHOWN:
            axes.axvline(guesses[column], linestyle=":", color=INK, linewidth=1.2, zorder=0)
        alike = [one for other in columns if guesses[other] == guesses[column] for one in found[other] if one]
        axes.set_xlim(_span(alike))  # those that guessing gets as much of are drawn to one scale
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    dotted = "; dotted: guessing" if max(guesses.values()) >= SHOWN else ""
    figure.supxlabel(f"right answers (%), mean over seeds with 95 % interval{dotted}", fontsize=9)
    return figure


def _span(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """The axis from ten to ten round all intervals, and round guessing where it is shown."""
    ends = [end for one in estimates for end in (one.low, one.high, *([one.chance] if one.chance >= SHOWN else []))]
    low, high = 10 * np.floor((min(ends) - 2) / 10), 10 * np.ceil((max(ends) + 2) / 10)
    return max(low, -2), min(high, 104)


def _panel(axes: Axes, estimates: Sequence[Estimate | None], rows: Sequence[str], column: str) -> None:
    for place, found in enumerate(estimates):
        color, marker = LOOKS[place % len(LOOKS)]
        if found is None:
            axes.text(0.03, place, "not measured", color=GRAY, fontsize=7, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
            continue
        axes.plot([found.low, found.high], [place, place], color=color, linewidth=2.2, alpha=0.6)
        axes.plot(found.mean, place, marker, color=color, markersize=6, markeredgecolor="white")
        axes.annotate(
            f"{found.mean:.0f}", (found.mean, place), (0, 5), textcoords="offset points", ha="center", fontsize=7,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    axes.set_title(wrapped(column, 24), fontsize=8, fontweight="normal")
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_yticks(range(len(rows)), [wrapped(row, 24) for row in rows], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)


@matplotlib.rc_context(STYLE)
def density_before_after(before: Any, after: Any, title: str = "How densely the summary token looks") -> Figure:
    """Attention density (layers, heads) before and after training, in one color scale, as percent of the picture."""
    grids = [100 * np.asarray(grid, dtype=float) for grid in (before, after)]
    figure = Figure(figsize=(7.0, 0.42 * len(grids[0]) + 1.9), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, grid, label in zip(panels, grids, ("before training", "after training"), strict=True):
        drawn = axes.imshow(grid, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for layer, row in enumerate(grid):
            for head, value in enumerate(row):
                axes.text(head, layer, f"{value:.0f}", ha="center", va="center", fontsize=7, color=_ink(value, 100))
        axes.set_title(f"{label}: {grid.mean():.0f} % on average", fontweight="normal")
        axes.set(xlabel="head", yticks=range(len(grid)))
    panels[0].set_ylabel("layer")
    figure.colorbar(drawn, ax=panels, label="of the picture's tokens (%)", shrink=0.9)
    return figure


def _ink(value: float, most: float) -> str:
    return "white" if value > 0.6 * most else INK


@matplotlib.rc_context(STYLE)
def maps_before_after(before: Any, after: Any, title: str = "Where the summary token looks") -> Figure:
    """Mean attention maps (layers, side, side), a column a layer, before training above and after it below."""
    maps = [np.asarray(one, dtype=float) for one in (before, after)]
    layers = len(maps[0])
    figure = Figure(figsize=(1.5 * layers + 1.2, 3.9), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(2, layers, squeeze=False)
    for row, (label, one) in enumerate(zip(("before", "after"), maps, strict=True)):
        for layer in range(layers):
            axes = panels[row][layer]
            axes.imshow(one[layer], cmap="Blues", vmin=0, vmax=max(m[layer].max() for m in maps))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"{100 * one[layer].sum():.0f} % of it", fontsize=8)
            if row == 0:
                axes.set_title(f"layer {layer}", fontweight="normal")
        panels[row][0].set_ylabel(label)
    figure.supxlabel(
        "mean over heads and pictures; below each: the part of the attention that goes to the patches", fontsize=8
    )
    return figure


@matplotlib.rc_context(STYLE)
def entropy_before_after(
    before: Mapping[str, Any], after: Mapping[str, Any], title: str = "How open the next word is"
) -> Figure:
    """Entropies (n,) of the summary token's next word for pictures and captions, before training and after it."""
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    places, labels = [], []
    for side_place, (side, said) in enumerate((("image", "pictures"), ("text", "captions"))):
        for state, (values, color) in enumerate(((before[side], ORANGE), (after[side], BLUE))):
            place = 2.5 * side_place + state
            values = np.asarray(values, dtype=float)
            low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
            axes.plot([low, high], [place, place], color=color, linewidth=3, alpha=0.6)
            axes.plot(middle, place, "so"[state], color=color, markersize=8, markeredgecolor="white")
            axes.annotate(f"{middle:.2f}", (middle, place), (0, 7), textcoords="offset points", ha="center", fontsize=8)
            places.append(place)
            labels.append(f"{said}, {('before', 'after')[state]}")
    axes.set_yticks(places, labels)
    axes.set_ylim(max(places) + 0.6, -0.8)
    axes.set_xlabel("entropy of the next word (nats): median, 5 to 95 %")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _loss(results: Mapping[str, Any]) -> Figure:
    curves = {
        row: [cell["history"] for cell in cells_of(results, "collapse", row)]
        for row in ("short captions", "long captions")
    }
    return loss_curves(curves, "Contrastive loss on short captions and on long ones")


def _inside(draw: Callable[..., Figure], key: str) -> Callable[[Mapping[str, Any]], Figure]:
    def drawn(results: Mapping[str, Any]) -> Figure:
        before, after = (cells_of(results, "components", row)[0]["inside"][key] for row in (BASE, FULL))
        return draw(before, after)

    return drawn


def _rows(experiment: str, columns: Sequence[str], title: str) -> Callable[[Mapping[str, Any]], Figure]:
    return lambda results: rows_over_columns(results, experiment, columns, title)


_LINES = {
    "batch-size": "As many pairs, in larger batches",
    "data-size": "As many steps, on more pairs",
    "rank": "LoRA's rank",
    "temperature": "Temperature, fixed and learned",
    "next-token-weight": "The weight of the next-token loss",
    "negatives": "Swapped captions as hard negatives",
    "soft-prompt-rate": "The soft prompt alone, by its learning rate",
}
# name of the file -> the experiment that it needs, and how it is drawn
FIGURES: dict[str, tuple[str, Callable[[Mapping[str, Any]], Figure]]] = {
    "retrieval": ("components", _rows("components", RETRIEVAL, "What each part adds to retrieval")),
    "composition": ("components", _rows("components", COMPOSITION, "What each part adds to composition")),
    "collapse": ("collapse", _loss),
    "attention-density": ("components", _inside(density_before_after, "density")),
    "attention-maps": ("components", _inside(maps_before_after, "maps")),
    "entropy": ("components", _inside(entropy_before_after, "entropy")),
    "variance": ("components", _inside(variance_before_after, "cumulative")),
    "generation": ("generation", _rows("generation", TALK, "Does it still talk?")),
    **{
        name: (name, _rows(name, (*RETRIEVAL, "SugarCrepe swap, seen", "Winoground group, seen"), title))
        for name, title in _LINES.items()
    },
}  # fmt: skip


def claim_figures(results: Mapping[str, Any]) -> dict[str, Figure]:
    """All figures that the results have the cells for, by file name: `claim_figures(results)["retrieval"]`."""
    figures = {name: draw(results) for name, (needs, draw) in FIGURES.items() if needs in results["experiments"]}
    if results.get("prompts"):
        figures["prompts"] = prompt_scatter(results["prompts"])
    return figures
