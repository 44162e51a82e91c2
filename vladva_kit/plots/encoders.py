"""Figures of the two towers: what they read, what the summary token would say, and which of their parts learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from vladva_kit.plots.style import BLUE, GRAY, INK, STYLE, VERMILION, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vladva_kit.analysis import NearestWords, PartWeights, Piece

PARTS = {  # fill of each part of a sequence; the names in the legend say it again
    "template": "#ececec",
    "picture": "#bcdcf2",
    "caption": "#bfe5d8",
    "prompt": "#fbe3a8",
    "summary token": VERMILION,
}
BELOW = {"soft prompt": -1, "LoRA": 0, "temperature": 1}  # columns from the LLM; the temperature divides the cosines
COLUMNS = 96  # letters in a line of boxes
LETTER = 0.078  # inches of a letter in the boxes


@matplotlib.rc_context(STYLE)
def input_sequences(
    towers: Mapping[str, Sequence[Piece]], title: str = "What the model reads, for a picture and for a caption"
) -> Figure:
    """The sequences as rows of boxes, a box a token: `input_sequences(analysis.input_pieces(embedder, picture, text))`.

    A run of equal tokens is one box with their number. Raises ValueError where there is nothing to draw.
    """
    if not towers or not all(towers.values()):
        raise ValueError("a tower without tokens: give what analysis.input_pieces returns")
    lines = {name: _lines(pieces) for name, pieces in towers.items()}
    height = sum(len(rows) + 1 for rows in lines.values())
    figure = Figure(figsize=(COLUMNS * LETTER + 0.3, 0.34 * height + 0.8), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    axes.set(xlim=(0, COLUMNS), ylim=(height, 0))
    axes.axis("off")
    top = 0.0
    for name, rows in lines.items():
        axes.text(0, top + 0.55, name, fontweight="bold", va="center")
        for place, row in enumerate(rows, start=1):
            for left, width, text, part in row:
                _token(axes, left, top + place, width, text, part)
        top += len(rows) + 1
    there = {piece.part for pieces in towers.values() for piece in pieces}
    legend = [Patch(facecolor=color, edgecolor=GRAY, label=part) for part, color in PARTS.items() if part in there]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), fontsize=9)
    return figure


def _lines(pieces: Sequence[Piece]) -> list[list[tuple[float, float, str, str]]]:
    """Boxes (left, width, text, part) in letters, in lines of at most COLUMNS."""
    lines: list[list[tuple[float, float, str, str]]] = [[]]
    left = 0.0
    for piece in pieces:
        text = piece.text.replace("\n", "⏎").strip() or "␣"
        text = f"{text} × {piece.n}" if piece.n > 1 else text
        width = len(text) + 1.4
        if left + width > COLUMNS and lines[-1]:
            lines.append([])
            left = 0.0
        lines[-1].append((left, width, text, piece.part))
        left += width + 0.4
    return lines


def _token(axes: Axes, left: float, top: float, width: float, text: str, part: str) -> None:
    shape = "round,pad=0,rounding_size=0.25"
    box = FancyBboxPatch(
        (left, top + 0.1), width, 0.8, boxstyle=shape, facecolor=PARTS[part], edgecolor=GRAY, linewidth=0.6
    )
    box.set_mutation_aspect(0.6)
    axes.add_patch(box)
    strong = {"color": "white", "fontweight": "bold"} if part == "summary token" else {"color": INK}
    axes.text(
        left + width / 2, top + 0.52, text, ha="center", va="center", fontsize=8, family="monospace", **strong
    )  # fmt: skip


@matplotlib.rc_context(STYLE)
def top_next_tokens(
    words: Any, probabilities: Any, names: Sequence[str], title: str = "The words that it would say next"
) -> Figure:
    """Bars of the likeliest next words, a panel a row: `top_next_tokens(reading.words, reading.probabilities, ["a dog"])`.

    words, probabilities: (rows, k), likeliest first. Raises ValueError for shapes that do not fit.
    """
    words, values = np.asarray(words), 100 * np.asarray(probabilities, dtype=np.float64)
    if words.ndim != 2 or words.shape != values.shape or len(names) != len(words):
        raise ValueError(
            f"words {words.shape}, probabilities {values.shape}, {len(names)} names; give (rows, k) of each"
        )
    rows, k = words.shape
    figure = Figure(figsize=(3.3 * rows + 0.4, 0.26 * k + 1.5), layout="constrained")
    figure.suptitle(title)
    for axes, row, bars, name in zip(np.ravel(figure.subplots(1, rows)), words, values, names, strict=True):
        axes.barh(range(k), bars, color=BLUE, height=0.7)
        axes.set_yticks(range(k), [word or "␣" for word in row], parse_math=False)
        axes.set(ylim=(k - 0.4, -0.6), xlim=(0, 1.25 * bars.max()), xlabel="probability (%)")
        axes.set_title(wrapped(name, 34, 2), fontweight="normal")
        axes.tick_params(axis="y", length=0)
        for place, value in enumerate(bars):
            axes.annotate(f"{value:.1f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    return figure


@matplotlib.rc_context(STYLE)
def trainable_summary(parts: Sequence[PartWeights], title: str = "What learns, and what stays as it is") -> Figure:
    """A diagram of the parts with their weights, what learns below: `trainable_summary(analysis.part_weights(embedder))`.

    Raises ValueError for no parts.
    """
    if not parts:
        raise ValueError("no parts: give what analysis.part_weights returns")
    frozen, learning = [part for part in parts if part.frozen], [part for part in parts if part.learning]
    figure = Figure(figsize=(1.75 * (len(frozen) + 1) + 0.6, 3.1), layout="constrained")
    everything = sum(part.frozen + part.learning for part in parts)
    share = sum(part.learning for part in parts) / everything
    figure.suptitle(f"{title}\n{share:.2%} of {everything:,} weights learn")
    axes = figure.subplots()
    axes.set(xlim=(-0.05, (len(frozen) + 1) * 1.25 - 0.2), ylim=(-0.1, 2.5))
    axes.axis("off")
    labels = [(f"{wrapped(part.name, 14)}\n{part.frozen:,}", "#dddddd") for part in frozen]
    labels.append(("vectors,\nand their cosines", "white"))
    for place, (label, color) in enumerate(labels):
        _box(axes, 1.25 * place, 1.5, label, color)
        if place:
            _arrow(axes, (1.25 * place - 0.25, 1.95), (1.25 * place, 1.95))
    for part in learning:
        place = len(frozen) - 1 + BELOW[part.name]  # the LLM is the last of the frozen ones
        _box(axes, 1.25 * place, 0, f"{part.name}\n{part.learning:,}", "#f6c3a5", hatch="///")
        into = 1.25 * place + (1.35 if BELOW[part.name] < 0 else 0.5)
        _arrow(axes, (1.25 * place + 0.5, 0.9), (into, 1.5))
    legend = [
        Patch(facecolor="#dddddd", edgecolor=GRAY, label="frozen"),
        Patch(facecolor="#f6c3a5", edgecolor=GRAY, hatch="///", label="learns"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _box(axes: Axes, left: float, bottom: float, label: str, color: str, hatch: str | None = None) -> None:
    shape = "round,pad=0,rounding_size=0.06"
    box = FancyBboxPatch((left, bottom), 1, 0.9, boxstyle=shape, facecolor=color, edgecolor=GRAY, hatch=hatch)
    axes.add_patch(box)
    text = axes.text(left + 0.5, bottom + 0.45, label, ha="center", va="center")
    text.set_bbox({"facecolor": color, "edgecolor": "none", "pad": 1.5})


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.4})


@matplotlib.rc_context(STYLE)
def prompt_rows(nearest: NearestWords, title: str = "The soft prompt, read as words") -> Figure:
    """A bar a row of the prompt, as near as its nearest word is: `prompt_rows(analysis.nearest_words(embedder))`.

    A row whose nearest word is no longer the hand-written one is drawn in another color and names both.
    """
    n = len(nearest.hand_written)
    figure = Figure(figsize=(5.6, 0.27 * n + 1.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    changed = [now != then for then, now in zip(nearest.hand_written, nearest.words[:, 0], strict=True)]
    axes.barh(range(n), nearest.cosines[:, 0], color=[VERMILION if one else BLUE for one in changed], height=0.7)
    labels = [
        f"{then or '␣'}  →  {now or '␣'}" for then, now in zip(nearest.hand_written, nearest.words[:, 0], strict=True)
    ]
    axes.set_yticks(range(n), labels, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(n - 0.4, -0.6), xlabel="cosine with the nearest word (1: has not moved)")
    axes.set_title(f"{n - sum(changed)} of {n} rows still read as they were written", fontweight="normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    return figure
