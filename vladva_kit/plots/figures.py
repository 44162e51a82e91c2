"""Figures of a run: arrays in, a matplotlib Figure out; none of them is known to pyplot, so none leaks or pops up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from vladva_kit.plots.encoders import input_sequences, prompt_rows, top_next_tokens, trainable_summary
from vladva_kit.plots.style import (
    BLUE,
    GRAY,
    INK,
    LOOKS,
    STYLE,
    VERMILION,
    as_png,
    checked_matrix,
    draw_matrix,
    found_text,
    marks_meaning,
    matrix_size,
    save,
    wrapped,
)
from vladva_kit.plots.winoground import decimals, verdict, winoground_case

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

__all__ = [
    "as_png",
    "decimals",
    "top_next_tokens",
    "model_comparison",
    "prompt_rows",
    "save",
    "similarity_before_after",
    "similarity_matrix",
    "input_sequences",
    "training_curve",
    "verdict",
    "trainable_summary",
    "winoground_case",
]
SMOOTHED = 15  # a running mean spans this part of a curve


@matplotlib.rc_context(STYLE)
def training_curve(history: Sequence[Mapping[str, Any]], title: str = "Training") -> Figure:
    """Losses, in-batch accuracy and temperature over the steps: `training_curve(vk.fit(...))`.

    Each entry of `history` has `step` and any of `seconds`, `contrastive`, `next_token`, `loss` (in nats), `accuracy`
    and `validation_recall` (0 to 1), `temperature`; an entry that lacks one is left out of that curve. The total
    `loss` is drawn where its parts are not there. Raises ValueError for a history without a step.
    """
    there = {key for key in _CURVES if _series(history, key)[0].size}
    losses = [key for key in ("contrastive", "next_token") if key in there] or ["loss"]
    wanted = {"loss (nats)": losses, "right pair first (%)": ["accuracy", "validation_recall"]}
    wanted["temperature"] = ["temperature"]
    panels = {label: [key for key in keys if key in there] for label, keys in wanted.items() if there & set(keys)}
    if not panels:
        raise ValueError(f"{len(history)} entries, none with a step and {', '.join(_CURVES)}; give what vk.fit returns")
    figure = Figure(figsize=(max(4.8, 2.7 * len(panels)), 3.0), layout="constrained")
    figure.suptitle(title)
    for axes, (label, keys) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for key in keys:
            _curve(axes, history, key)
        axes.set_ylabel(label)
        axes.set_ylim(*{"loss (nats)": (0, None), "right pair first (%)": (0, 100)}.get(label, (None, None)))
        axes.xaxis.get_major_locator().set_params(integer=True)  # there is no step one and a half
        axes.grid(axis="y", alpha=0.3)
        if label != "temperature":
            axes.legend(
                loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=2, fontsize=9, handlelength=1, columnspacing=0.7
            )
    seconds = max(_series(history, "seconds")[1], default=None)
    took = "" if seconds is None else f" ({seconds:,.0f} s in all)"
    smoothed = "; thin: each step, bold: running mean" if len(history) >= 2 * SMOOTHED else ""
    figure.supxlabel(f"training step{took}{smoothed}", fontsize=STYLE["font.size"])
    return figure


_CURVES = {
    "contrastive": ("contrastive", BLUE, 1),
    "next_token": ("next token", VERMILION, 1),
    "loss": ("total", BLUE, 1),
    "accuracy": ("in the batch", BLUE, 100),
    "validation_recall": ("validation", VERMILION, 100),
    "temperature": ("temperature", BLUE, 1),
}


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the entries that have both."""
    points = [(e["step"], e[key]) for e in history if e.get("step") is not None and e.get(key) is not None]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _curve(axes: Axes, history: Sequence[Mapping[str, Any]], key: str) -> None:
    """A curve; many noisy points are drawn thin, with their running mean over them."""
    steps, values = _series(history, key)
    label, color, scale = _CURVES[key]
    if not steps.size:
        return
    values, width = scale * values, len(steps) // SMOOTHED
    if key == "validation_recall":
        axes.plot(steps, values, "--D", color=color, label=label, markersize=4)
    elif width < 2 or key == "temperature":
        axes.plot(steps, values, color=color, label=label)
    else:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
        axes.plot(steps, np.convolve(padded, np.ones(width) / width, "valid"), color=color, label=label)


@matplotlib.rc_context(STYLE)
def similarity_matrix(
    scores: Any,
    images: Sequence[Image.Image | Path | bytes] | None = None,
    texts: Sequence[str] | None = None,
    title: str = "Similarity of pictures and captions",
) -> Figure:
    """Every caption with every picture: `similarity_matrix(embedder.similarity(images, texts), pictures, captions)`.

    `scores` (n_images, n_texts); pictures are drawn as columns, captions as rows. In a square matrix image i belongs
    to caption i. Raises ValueError for another shape, NaN, or another number of images or texts.
    """
    values = checked_matrix(scores, images, texts)
    figure = Figure(figsize=matrix_size(values, images, texts, panels=1), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    drawn = draw_matrix(axes, values, (values.min(), values.max()), images, texts)
    axes.set_title(found_text(values), fontweight="normal")
    figure.supxlabel(marks_meaning(values), fontsize=9)
    figure.colorbar(drawn, ax=axes, label="similarity (cosine)", shrink=0.8, aspect=30)
    return figure


@matplotlib.rc_context(STYLE)
def similarity_before_after(
    before: Any,
    after: Any,
    images: Sequence[Image.Image | Path | bytes] | None = None,
    texts: Sequence[str] | None = None,
    title: str = "Similarity of pictures and captions",
    labels: tuple[str, str] = ("before training", "after training"),
) -> Figure:
    """Two matrices (n_images, n_texts) side by side: `similarity_before_after(before, after, pictures, captions)`.

    An untrained LVLM's cosines lie in a narrow band, so each matrix is standardized (mean 0, standard deviation 1)
    and both share one color scale; the band itself is written above each. Raises ValueError as `similarity_matrix`,
    and for two shapes.
    """
    matrices = [checked_matrix(scores, images, texts) for scores in (before, after)]
    if matrices[0].shape != matrices[1].shape:
        raise ValueError(f"before is {matrices[0].shape}, after {matrices[1].shape}; score the same pairs both times")
    figure = Figure(figsize=matrix_size(matrices[0], images, texts, panels=2), layout="constrained")
    figure.suptitle(title)
    standard = [(values - values.mean()) / (values.std() if np.ptp(values) else 1) for values in matrices]
    limits = min(map(np.min, standard)), max(map(np.max, standard))
    both = figure.subplots(1, 2)
    for place, (axes, values, label) in enumerate(zip(both, matrices, labels, strict=True)):
        drawn = draw_matrix(axes, standard[place], limits, images, texts if place == 0 else None)
        band = f"cosines {values.min():.2f} to {values.max():.2f}".replace("-", "−")
        axes.set_title("\n".join(filter(None, (label, found_text(values), band))), fontweight="normal")
    both[1].set_ylabel("")
    both[1].set_yticks([])
    figure.supxlabel(marks_meaning(matrices[0]).replace("\n", "; "), fontsize=9)
    figure.colorbar(drawn, ax=both, label="similarity, standardized\n(standard deviations)", shrink=0.8, aspect=30)
    return figure


@matplotlib.rc_context(STYLE)
def model_comparison(table: Mapping[str, Mapping[str, Any]], title: str = "The models side by side") -> Figure:
    """Models over scores, with 95 % intervals and chance: `model_comparison({"R@1": {"base": score, "tuned": None}})`.

    `table[score][model]` is a `Score`, its dict, or None (not measured). Raises ValueError for no score.
    """
    models = list(dict.fromkeys(model for row in table.values() for model in row))
    if not models:
        raise ValueError("the table has no model; give {score: {model: Score}}")
    figure = Figure(figsize=(6.4, 1.3 + len(table) * (0.16 + 0.15 * len(models))), layout="constrained")
    axes = figure.subplots()
    for row, scores in enumerate(table.values()):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color="#f2f2f2", zorder=0)
        for place, model in enumerate(models):
            _draw_score(axes, scores.get(model), row + 0.72 * ((place + 0.5) / len(models) - 0.5), place)
        chances = {_fields(score).get("chance") for score in scores.values() if score is not None} - {None}
        for chance in chances:
            axes.plot([chance, chance], [row - 0.44, row + 0.44], ":", color=INK, linewidth=1.6, zorder=1)
    for place, model in enumerate(models):
        color, marker = LOOKS[place % len(LOOKS)]
        axes.plot([], [], marker=marker, color=color, linestyle="", label=model)
    axes.plot([], [], ":", color=INK, label="guessing")
    columns = min(len(models) + 1, 4)
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, fontsize=9, handlelength=1.4)
    for text in legend.get_texts():
        text.set_parse_math(False)
    labels = [wrapped(name, 30) for name in table]
    axes.set_yticks(range(len(table)), labels, fontsize=9, parse_math=False)
    axes.set(xlim=(-2, 102), ylim=(len(table) - 0.5, -0.5), xlabel="right answers (%), with 95 % interval")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    figure.suptitle(title)
    return figure


def _draw_score(axes: Axes, score: Any, y: float, place: int) -> None:
    color, marker = LOOKS[place % len(LOOKS)]
    fields = {} if score is None else _fields(score)
    if fields.get("percent") is None:
        axes.text(0, y, "not measured", color=GRAY, va="center", fontsize=8)
        return
    percent = fields["percent"]
    low, high = (percent if fields.get(end) is None else fields[end] for end in ("low", "high"))
    axes.plot([low, high], [y, y], color=color, linewidth=2.2, alpha=0.55, solid_capstyle="butt", zorder=2)
    axes.plot(percent, y, marker, color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.6, zorder=3)


def _fields(score: Any) -> Mapping[str, Any]:
    return score if isinstance(score, Mapping) else vars(score)
