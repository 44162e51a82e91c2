"""What the model reads and consists of: its two inputs, its parameters, and the soft prompt as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from vladva_kit.plots.style import BLUE, GRAY, INK, VERMILION, label_rows, new_figure, styled, wrap_text

if TYPE_CHECKING:
    from vladva_kit.analysis import NearestTokens, ParameterCount, Piece

PART_COLORS = {
    "template": "#ececec",
    "image": "#bcdcf2",
    "caption": "#bfe5d8",
    "prompt": "#fbe3a8",
    "summary token": VERMILION,
}
FROZEN, TRAINABLE = "#dddddd", "#f6c3a5"
ADAPTER_COLUMNS = {"soft prompt": -1, "LoRA": 0, "temperature": 1}  # offset from the LLM's column
COLUMNS = 110  # characters in a line of boxes
CHARACTER = 0.0675  # inches per character


@styled
def input_sequences(pieces: Mapping[str, Sequence[Piece]], title: str = "Model inputs") -> Figure:
    """Draw the model's inputs, a box per token: `input_sequences(analysis.input_pieces(embedder, image, caption))`.

    A run of equal tokens is one box with their count. Raises ValueError for an input without tokens.
    """
    if not pieces or not all(pieces.values()):
        raise ValueError("an input without tokens: give what analysis.input_pieces returns")
    lines = {name: _layout(sequence) for name, sequence in pieces.items()}
    height = sum(len(rows) + 1 for rows in lines.values())
    counts = (f"{name} input: {sum(piece.n for piece in sequence)} tokens" for name, sequence in pieces.items())
    figure = new_figure(COLUMNS * CHARACTER + 0.3, 0.34 * height + 1.0, title, ", ".join(counts))
    axes = figure.subplots()
    axes.set(xlim=(0, COLUMNS), ylim=(height, 0))
    axes.axis("off")
    top = 0.0
    for name, rows in lines.items():
        axes.text(0, top + 0.55, f"{name} input", fontweight="bold", va="center")
        for line, row in enumerate(rows, start=1):
            for left, text, part in row:
                is_summary = part == "summary token"
                font: dict[str, Any] = {"color": "white", "fontweight": "bold"} if is_summary else {"color": INK}
                box = {"boxstyle": "round", "facecolor": PART_COLORS[part], "edgecolor": GRAY, "linewidth": 0.6}
                axes.text(left, top + line + 0.5, text, va="center", fontsize=8, family="monospace", bbox=box, **font)
        top += len(rows) + 1
    used = {piece.part for sequence in pieces.values() for piece in sequence}
    legend = [Patch(facecolor=color, edgecolor=GRAY, label=part) for part, color in PART_COLORS.items() if part in used]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), fontsize=9)
    return figure


def _layout(pieces: Sequence[Piece]) -> list[list[tuple[float, str, str]]]:
    """Arrange tokens (left, text, part) in lines of at most COLUMNS characters."""
    lines: list[list[tuple[float, str, str]]] = [[]]
    left = 0.6
    for piece in pieces:
        text = piece.text.replace("\n", "⏎").strip() or "␣"
        text = f"{text} × {piece.n}" if piece.n > 1 else text
        if left + len(text) + 0.6 > COLUMNS and lines[-1]:
            lines.append([])
            left = 0.6
        lines[-1].append((left, text, piece.part))
        left += len(text) + 1.7
    return lines


@styled
def trainable_parts(parts: Sequence[ParameterCount], title: str = "Frozen and trainable parameters") -> Figure:
    """Draw the model's parts with their parameters: `trainable_parts(analysis.parameter_counts(embedder))`.

    Raises ValueError for no parts.
    """
    if not parts:
        raise ValueError("no parts: give what analysis.parameter_counts returns")
    frozen, trainable = [part for part in parts if part.frozen], [part for part in parts if part.trainable]
    total = sum(part.frozen + part.trainable for part in parts)
    share = sum(part.trainable for part in parts) / total
    answer = f"{100 * share:.2f} % of {total:,} parameters are trainable"
    figure = new_figure(1.75 * (len(frozen) + 1) + 0.6, 3.1, title, answer)
    axes = figure.subplots()
    axes.set(xlim=(-0.05, (len(frozen) + 1) * 1.25 - 0.2), ylim=(-0.1, 2.5))
    axes.axis("off")
    labels = [(f"{wrap_text(part.name, 14)}\n{part.frozen:,}", FROZEN) for part in frozen]
    for column, (label, color) in enumerate([*labels, ("embeddings\nand cosines", "white")]):
        _draw_box(axes, 1.25 * column, 1.5, label, color)
        if column:
            _draw_arrow(axes, (1.25 * column - 0.25, 1.95), (1.25 * column, 1.95))
    for part in trainable:
        offset = ADAPTER_COLUMNS[part.name]
        left = 1.25 * (len(frozen) - 1 + offset)  # the LLM is the last frozen part
        _draw_box(axes, left, 0, f"{part.name}\n{part.trainable:,}", TRAINABLE, hatch="///")
        _draw_arrow(axes, (left + 0.5, 0.9), (left + (1.35 if offset < 0 else 0.5), 1.5))
    legend = [
        Patch(facecolor=FROZEN, edgecolor=GRAY, label="frozen"),
        Patch(facecolor=TRAINABLE, edgecolor=GRAY, hatch="///", label="trainable"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _draw_box(axes: Axes, left: float, bottom: float, label: str, color: str, hatch: str | None = None) -> None:
    shape = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((left, bottom), 1, 0.9, boxstyle=shape, fc=color, ec=GRAY, hatch=hatch))
    text = axes.text(left + 0.5, bottom + 0.45, label, ha="center", va="center")
    text.set_bbox({"facecolor": color, "edgecolor": "none", "pad": 1.5})


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.4})


@styled
def nearest_token_bars(nearest: NearestTokens, title: str = "Prompt embeddings and their nearest tokens") -> Figure:
    """Plot the cosine of each prompt embedding with its nearest token: `nearest_token_bars(nearest_tokens(embedder))`.

    The label of each bar is the hand-written token and the nearest one; the color marks embeddings where they differ.
    """
    n = len(nearest.hand_written)
    labels = list(zip(nearest.hand_written, nearest.tokens[:, 0], strict=True))
    changed = [initial != token for initial, token in labels]
    answer = f"{n - sum(changed)} of {n} embeddings are still nearest to their hand-written token"
    figure = new_figure(6.2, 0.27 * n + 1.7, title, answer)
    axes = figure.subplots()
    axes.barh(range(n), nearest.cosines[:, 0], color=[VERMILION if one else BLUE for one in changed], height=0.7)
    names = [f"{initial or '␣'}  →  {token or '␣'}" for initial, token in labels]
    label_rows(axes, names)
    axes.set(xlim=(0, 1), xlabel="cosine with the nearest token (1: unchanged)")
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    return figure
