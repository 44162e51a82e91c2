"""Single cases and what they add up to: a caption made wrong, its words one by one, the hardest pairs, all margins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from vladva_kit.models.images import open_image
from vladva_kit.plots.style import BLUE, GRAY, INK, ORANGE, STYLE, VERMILION, bare, checked_matrix, thumbnail, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

    from vladva_kit.analysis import WordWeights
    from vladva_kit.evaluation.per_case import CaseScore


@matplotlib.rc_context(STYLE)
def sugarcrepe_case(
    image: Image.Image | Path | bytes,
    caption: str,
    negative: str,
    scores: Mapping[str, tuple[float, float]],
    title: str = "Which caption is true?",
) -> Figure:
    """A picture, its caption and one made wrong: `sugarcrepe_case(case.image, case.caption, case.negative_caption,
    {"base": (case.positive, case.negative)})`.

    `scores[model]` are the similarities of the true and of the false caption. Raises ValueError for no model.
    """
    if not scores:
        raise ValueError("no scores: give {model: (true caption's similarity, false caption's similarity)}")
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.7))
    _picture(left.subplots(), image)
    axes = right.subplots()
    margins = [float(true) - float(false) for true, false in scores.values()]
    _signed_bars(axes, list(scores), margins)
    axes.set_title(
        f"true:  {wrapped(caption, 52, 3)}\nfalse: {wrapped(negative, 52, 3)}", loc="left", fontweight="normal"
    )
    axes.set_xlabel("similarity of the true caption minus that of the false one (cosine)", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def word_weights(
    image: Image.Image | Path | bytes,
    weights: Mapping[str, WordWeights],
    title: str = "The words that the score hangs on",
) -> Figure:
    """A bar a word for each model: `word_weights(picture, {"base": leave_one_word_out(base, picture, text)})`.

    Each model has a scale of its own, since their similarities spread differently. Raises ValueError unless all models
    were given the same words.
    """
    words = {found.words for found in weights.values()}
    if len(words) != 1:
        raise ValueError(f"{len(words)} captions for {len(weights)} models: give each the same caption")
    names = list(words.pop())
    figure = Figure(figsize=(2.6 * (len(weights) + 1), max(2.8, 0.27 * len(names) + 1.5)), layout="constrained")
    figure.suptitle(title)
    axes = np.ravel(figure.subplots(1, len(weights) + 1))
    _picture(axes[0], image)
    for place, (panel, (model, found)) in enumerate(zip(axes[1:], weights.items(), strict=True)):
        _signed_bars(panel, names if place == 0 else [""] * len(names), found.weights.tolist(), verdict=False)
        panel.set_title(f"{model}: {found.score:.3f}", parse_math=False)
    figure.supxlabel("by how much the similarity (cosine, above each) falls when the word is left out", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def margins_by_category(
    margins: Mapping[str, Iterable[CaseScore]], title: str = "How clearly each case is right or wrong"
) -> Figure:
    """Every case as a dot, by category, a panel a model: `margins_by_category({"base": result.margins()})`.

    Give cases of one score ("group", "accuracy", …). Right of the line is right; on it, a tie, which is wrong.
    Raises ValueError for no case, or for cases of several scores.
    """
    cases = {model: list(found) for model, found in margins.items()}
    scores = {case.score for found in cases.values() for case in found}
    if len(scores) != 1:
        raise ValueError(f"cases of {len(scores)} scores ({', '.join(sorted(scores))}): choose those of one")
    categories = sorted({case.category for found in cases.values() for case in found})
    size = max(6.0, 2.6 * len(cases) + 1.4), 0.5 * len(categories) + 1.7
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    panels = np.ravel(figure.subplots(1, len(cases), sharey=True))
    for panel, (model, found) in zip(panels, cases.items(), strict=True):
        for row, category in enumerate(categories):
            _dots(panel, row, np.array([case.margin for case in found if case.category == category]))
        panel.axvline(0, color=INK, linewidth=1)
        panel.set_title(model, parse_math=False)
        panel.set_yticks(range(len(categories)), categories, parse_math=False)
        panel.tick_params(axis="y", length=0)
        panel.set_ylim(len(categories) - 0.5, -0.62)
        panel.locator_params(axis="x", nbins=4)
    figure.supxlabel(f"margin of the {scores.pop()} score (cosine); left of the line: wrong", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def hardest_pairs(
    scores: Any,
    pictures: Sequence[Image.Image | Path | bytes],
    captions: Sequence[str],
    k: int = 4,
    title: str = "The captions that are led astray the most",
) -> Figure:
    """The captions whose own picture trails the best other one by most: `hardest_pairs(scores, pictures, captions)`.

    `scores` (n, n), picture i belongs to caption i. Raises ValueError for another shape.
    """
    values = checked_matrix(scores, pictures, captions)
    if values.shape[0] != values.shape[1] or len(values) < 2:
        raise ValueError(f"scores have shape {values.shape}: picture i must belong to caption i, of two pairs or more")
    own = np.diag(values)
    others = np.where(np.eye(len(values), dtype=bool), -np.inf, values)
    chosen = np.argsort(own - others.max(axis=0), kind="stable")[:k]
    figure = Figure(figsize=(7.0, 1.75 * len(chosen) + 0.7), layout="constrained")
    figure.suptitle(title)
    rows = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=(1.5, 1, 1))
    for (text, mine, found), place in zip(rows, chosen, strict=True):
        best = int(others[:, place].argmax())
        rank = int((values[:, place] >= own[place]).sum())
        bare(text)
        text.text(1, 0.5, wrapped(captions[place], 30, 5), ha="right", va="center", transform=text.transAxes)
        for panel, which, said in ((mine, place, f"rank {rank} of {len(values)}"), (found, best, "the best other")):
            _picture(panel, thumbnail(pictures[which]))
            lost = values[which, place] <= (others[:, place].max() if which == place else own[place])
            color = VERMILION if lost else BLUE
            panel.set_xlabel(f"{values[which, place]:.3f}, {said}", fontsize=9, color=color)
    rows[0][1].set_title("its own picture")
    rows[0][2].set_title("another picture")
    figure.supxlabel("numbers: similarity with the caption (cosine); blue: the higher of the two", fontsize=9)
    return figure


def _picture(axes: Axes, image: Image.Image | Path | bytes) -> None:
    axes.imshow(np.asarray(open_image(image)))
    bare(axes)


def _signed_bars(axes: Axes, names: Sequence[str], values: Sequence[float], verdict: bool = True) -> None:
    """A horizontal bar a name, blue above zero and vermilion otherwise, with its value at its end."""
    places = np.arange(len(names))
    axes.barh(places, values, height=0.62, color=[BLUE if value > 0 else VERMILION for value in values])
    reach = max(map(abs, values)) or 1.0
    for place, value in zip(places, values, strict=True):
        mark = (" ✓" if value > 0 else " ✗") if verdict else ""
        text = (f"{value:+.3f}" if abs(value) >= 5e-4 else "0.000").replace("-", "−") + mark
        axes.annotate(
            text, (value, place), (4 if value >= 0 else -4, 0), textcoords="offset points", va="center", fontsize=8,
            ha="left" if value >= 0 else "right",
        )  # fmt: skip
    low, high = min(0.0, min(values)), max(0.0, max(values))
    axes.set_xlim(low - 0.5 * reach * (low < 0) - 0.05 * reach, high + 0.5 * reach * (high > 0) + 0.05 * reach)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(places, names, parse_math=False)
    axes.axvline(0, color=GRAY, linewidth=1)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=3)
    axes.spines["left"].set_visible(False)


def _dots(axes: Axes, row: int, margins: np.ndarray) -> None:
    """A category's margins, spread a little so that equal ones show, and how many are right."""
    if not margins.size:
        return
    spread = 0.22 * np.linspace(-1, 1, len(margins))[np.random.default_rng(0).permutation(len(margins))]
    right = margins > 0
    axes.plot(margins[right], row + spread[right], "o", color=BLUE, markersize=4, alpha=0.7, markeredgewidth=0)
    axes.plot(margins[~right], row + spread[~right], "x", color=ORANGE, markersize=4, alpha=0.9)
    axes.text(
        0.99, row - 0.3, f"{right.sum()} of {len(margins)} right", transform=axes.get_yaxis_transform(),
        ha="right", va="bottom", fontsize=8, color=INK,
    )  # fmt: skip
