"""Figures about training: loss curves, and the estimated memory of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vladva_kit.plots.style import (
    BLUE,
    INK,
    MODEL_STYLES,
    ORANGE,
    SKY,
    STYLE,
    VERMILION,
    label_rows,
    new_figure,
    styled,
)
from vladva_kit.training.memory import GIB, Memory

RECALL, PANEL_OF_RECALL = "eval_text_to_image_r1", "top-1 accuracy (%)"
WINDOWS = 15  # the running mean averages 1/15 of a curve
PANELS = {  # y-axis label -> metrics of the history
    "loss (nats)": ("contrastive", "next_token"),
    PANEL_OF_RECALL: ("accuracy", RECALL),
    "temperature": ("temperature",),
}
CURVES = {  # metric -> legend label, color and scale
    "contrastive": ("contrastive", BLUE, 1),
    "next_token": ("next token", VERMILION, 1),
    "loss": ("total", BLUE, 1),
    "accuracy": ("in batch", BLUE, 100),
    RECALL: ("validation", VERMILION, 1),
    "temperature": ("temperature", BLUE, 1),
}
MEMORY_PARTS = {"weights": BLUE, "adapter": ORANGE, "activations": SKY}


@styled
def training_curve(
    history: Sequence[Mapping[str, Any]], title: str = "Training", base: Mapping[str, float] | None = None
) -> Figure:
    """Plot losses, accuracy and temperature over the training steps: `training_curve(vk.fit(...))`.

    Each entry of `history` has `step` and any of `seconds`, `contrastive`, `next_token`, `loss` (in nats), `accuracy`
    (0 to 1), `eval_text_to_image_r1` (percent), `temperature`. The total `loss` is plotted only if its parts are
    missing. `base`: validation metrics of the base, without "eval_"; its recall, or else the first of them, is drawn as
    a dashed line. Raises ValueError if there is nothing to plot.
    """
    known = {f"eval_{name}": value for name, value in (base or {}).items()}
    validated = RECALL if RECALL in known else next(iter(known), RECALL)
    series = {key: _series(history, key) for key in dict.fromkeys([*CURVES, validated])}
    panels = {label: [key for key in keys if series[key][0].size] for label, keys in PANELS.items()}
    if validated != RECALL and series[validated][0].size:
        panels[f"validation: {validated.removeprefix('eval_')}"] = [validated]
    if not panels["loss (nats)"] and series["loss"][0].size:
        panels["loss (nats)"] = ["loss"]
    panels = {label: keys for label, keys in panels.items() if keys}
    if not panels:
        raise ValueError(f"{len(history)} entries, none with a step and {', '.join(CURVES)}; give what vk.fit returns")
    figure = new_figure(max(4.8, 2.7 * len(panels)), 3.2, title, _change(series, panels))
    for axes, (label, keys) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for key in keys:
            _draw_curve(axes, key, *series[key])
        if validated in known and (validated in keys or label == PANEL_OF_RECALL and validated == RECALL):
            axes.axhline(known[validated], linestyle="--", color=INK, label="base")
        axes.set_ylabel(label)
        axes.set_ylim(*{"loss (nats)": (0, None), PANEL_OF_RECALL: (0, 100)}.get(label, (None, None)))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", alpha=0.3)
        if label != "temperature":
            axes.legend(
                loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=2, fontsize=9, handlelength=1, columnspacing=0.7
            )
    seconds = max(_series(history, "seconds")[1], default=None)
    duration = "" if seconds is None else f" ({seconds:,.0f} s in total)"
    smoothing = "; thin: each step, bold: running mean" if len(history) >= 2 * WINDOWS else ""
    figure.supxlabel(f"training step{duration}{smoothing}", fontsize=STYLE["font.size"])
    return figure


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and scaled values of the entries that have both."""
    points = [(e["step"], e[key]) for e in history if e.get("step") is not None and e.get(key) is not None]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, CURVES[key][2] * values if key in CURVES else values


def _change(series: Mapping[str, tuple[np.ndarray, np.ndarray]], panels: Mapping[str, Sequence[str]]) -> str:
    """Say how the first loss and the validation recall changed, as means over the ends of the curves."""
    keys = [*panels.get("loss (nats)", ())[:1], RECALL]
    changes = []
    for key in (key for key in keys if series[key][0].size):
        values, n = series[key][1], max(1, len(series[key][1]) // WINDOWS)
        ends = dict.fromkeys(f"{part.mean():.3g}" for part in (values[:n], values[-n:]))
        kind, unit = ("recall", "%") if key == RECALL else ("loss", "nats")
        changes.append(f"{CURVES[key][0]} {kind} {' → '.join(ends)} {unit}")
    return ", ".join(changes)


def _draw_curve(axes: Axes, key: str, steps: np.ndarray, values: np.ndarray) -> None:
    """Draw a curve; many noisy points are drawn thin, with their running mean on top."""
    label, color, _ = CURVES.get(key, CURVES[RECALL])
    width = len(steps) // WINDOWS
    if key not in CURVES or key == RECALL:
        axes.plot(steps, values, "-D", color=color, label=label, markersize=4)
    elif width < 2 or key == "temperature":
        axes.plot(steps, values, color=color, label=label)
    else:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
        axes.plot(steps, np.convolve(padded, np.ones(width) / width, "valid"), color=color, label=label)


@styled
def loss_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "Contrastive loss") -> Figure:
    """Plot contrastive losses, a color per setting and a line per seed: `loss_curves({"+ both": histories})`.

    `curves[setting]` holds one history per seed, each {"step": […], "contrastive": […]}.
    """
    final = (f"{name} {np.mean([one['contrastive'][-1] for one in runs]):.2g}" for name, runs in curves.items())
    figure = new_figure(5.6, 3.6, title, f"final loss in nats: {', '.join(final)}")
    axes = figure.subplots()
    for index, (name, histories) in enumerate(curves.items()):
        line = ("-", "--", "-.", ":")[index % 4]  # distinguishable without color
        for seed, history in enumerate(histories):
            label = None if seed else name
            axes.plot(history["step"], history["contrastive"], line, color=(BLUE, VERMILION)[index % 2], label=label)
    axes.set(xlabel="training step", ylabel="contrastive loss (nats, log scale)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own formatter writes powers as math text
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


@styled
def validation_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Mapping[str, str],
    lines: Mapping[str, Mapping[str, float]] | None = None,
    title: str = "Validation during training",
) -> Figure:
    """Compare runs by their validation metrics, one panel per metric and one curve per run.

        validation_curves({"random": random, "twins": twins}, {"winoground_group": "group score (%)"},
                          {"winoground_group": {"chance": 16.7}})

    histories: what `vk.fit(..., validation=...)` returns, by run. metrics: a validation metric, without "eval_", or a
    metric of the steps, such as "accuracy", and its axis label. lines: dotted reference lines by metric and label.
    More than three panels take two rows. Raises ValueError for a metric that no run has.
    """
    panels = {metric: {run: _validation(history, metric) for run, history in histories.items()} for metric in metrics}
    for metric, series in panels.items():
        if not any(steps.size for steps, _ in series.values()):
            raise ValueError(f"no run has the validation metric '{metric}': return it from the validation function")
    n_rows = 1 if len(panels) <= 3 else 2
    n_columns = math.ceil(len(panels) / n_rows)
    figure = new_figure(max(4.8, 3.6 * n_columns), 3.4 if n_rows == 1 else 5.6, title, _last_values(panels, metrics))
    every_axes = np.ravel(figure.subplots(n_rows, n_columns))
    for axes in every_axes[len(panels) :]:
        axes.remove()
    for axes, (metric, series) in zip(every_axes, panels.items(), strict=False):
        for index, (run, (steps, values)) in enumerate(series.items()):
            color, marker = MODEL_STYLES[index % len(MODEL_STYLES)]
            spacing = max(1, len(steps) // WINDOWS)  # a marker at each validation, but not at each of many steps
            axes.plot(steps, values, marker=marker, color=color, label=run, markersize=5, markevery=spacing)
        for label, value in (lines or {}).get(metric, {}).items():
            axes.axhline(value, linestyle=":", color=INK, linewidth=1.2)
            axes.annotate(label, (1, value), (0, 3), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                          ha="right", fontsize=8)  # fmt: skip
        axes.set(xlabel="training step", ylabel=metrics[metric], ylim=(0, None))
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].legend(fontsize=9)
    return figure


def _validation(history: Sequence[Mapping[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a validation metric, or of a metric of the steps."""
    series = _series(history, f"eval_{metric}")
    return series if series[0].size else _series(history, metric)


def _last_values(panels: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, str]) -> str:
    """State the last value of each run in the first panel."""
    metric, series = next(iter(panels.items()))
    ends = (f"{run} {values[-1]:.3g}" for run, (_, values) in series.items() if values.size)
    return f"{metrics[metric]} at the end: {', '.join(ends)}"


@styled
def memory_bars(
    memories: Mapping[str, Memory], cards: Mapping[str, float], title: str = "Estimated training memory"
) -> Figure:
    """Plot the memory of each setting by part, with GPU sizes as lines: `memory_bars({"batch 8": memory}, {"T4": 15})`.

    `memories` come from `estimate_memory`, `cards` are GiB. The overhead of CUDA and its allocator is included as in
    `largest_batch`. Raises ValueError for no memory.
    """
    if not memories:
        raise ValueError("no memory to plot: give {name: estimate_memory(…)}")
    totals = [memory.required / GIB for memory in memories.values()]
    fits = (f"{name}: {sum(total <= size for total in totals)} of {len(totals)} fit" for name, size in cards.items())
    figure = new_figure(7.0, 0.36 * len(memories) + 1.8, title, "; ".join(fits))
    axes = figure.subplots()
    parts = {name: [getattr(one, name) / GIB for one in memories.values()] for name in MEMORY_PARTS}
    parts["CUDA overhead"] = np.subtract(totals, np.sum([*parts.values()], axis=0))
    left = np.zeros(len(totals))
    for name, sizes in parts.items():
        hatched = {"color": "white", "edgecolor": INK, "hatch": "////", "linewidth": 0.6}
        style = {"color": MEMORY_PARTS[name]} if name in MEMORY_PARTS else hatched
        bars = axes.barh(range(len(totals)), sizes, left=left, height=0.66, label=name, **style)
        left = left + sizes
    axes.bar_label(bars, [f"{total:.1f}" for total in totals], padding=4)
    for name, size in cards.items():
        axes.axvline(size, color=INK, linestyle="--", linewidth=1.2)
        axes.annotate(name, (size, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points")
    label_rows(axes, list(memories), fontsize=9)
    axes.set_xlabel("memory (GiB), estimated from the config")
    axes.set_xlim(0, 1.12 * max(axes.get_xlim()[1], *cards.values()))
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure
