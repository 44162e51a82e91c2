"""Evaluation results: models compared by score, the margin of every case, and single cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vladva_kit.evaluation.cases import CaseScore
from vladva_kit.evaluation.winoground import winoground_margins
from vladva_kit.models.images import ImageLike
from vladva_kit.plots.style import (
    BLUE,
    GRAY,
    INK,
    MODEL_STYLES,
    ORANGE,
    VERMILION,
    label_rows,
    new_figure,
    show_image,
    styled,
    wrap_text,
)

if TYPE_CHECKING:
    from vladva_kit.analysis import WordImportance


@styled
def model_comparison(table: Mapping[str, Mapping[str, Any]], title: str = "Model comparison") -> Figure:
    """Plot models by score, with 95 % intervals and chance: `model_comparison({"R@1": {"base": a, "tuned": None}})`.

    `table[score][model]` is a `Score`, its dict, or None (not measured). The legend states the chance level if all
    scores have the same one, otherwise each score's label does. Raises ValueError for an empty table.
    """
    models = list(dict.fromkeys(model for row in table.values() for model in row))
    if not models:
        raise ValueError("the table has no model; give {score: {model: Score}}")
    rows = {name: {model: _fields(score) for model, score in row.items()} for name, row in table.items()}
    first, scores = next(iter(rows.items()))
    percents = {model: fields.get("percent") for model, fields in scores.items()}
    parts = [f"{model} {percent:.1f} %" for model, percent in percents.items() if percent is not None]
    answer = f"{' '.join(first.split())}: {', '.join(parts)}" if parts else ""
    levels = {
        name: sorted({one["chance"] for one in row.values() if one.get("chance") is not None})
        for name, row in rows.items()
    }
    shared = {round(level, 1) for row in levels.values() for level in row}
    figure = new_figure(6.4, 1.5 + len(table) * (0.16 + 0.15 * len(models)), title, answer)
    axes = figure.subplots()
    for y, (name, scores) in enumerate(rows.items()):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#f2f2f2", zorder=0)
        for index, model in enumerate(models):
            offset = 0.72 * ((index + 0.5) / len(models) - 0.5)
            _draw_score(axes, scores.get(model, {}), y + offset, *MODEL_STYLES[index % len(MODEL_STYLES)])
        for chance in levels[name]:
            axes.plot([chance, chance], [y - 0.44, y + 0.44], ":", color=INK, linewidth=1.6, zorder=1)
    for index, model in enumerate(models):
        color, marker = MODEL_STYLES[index % len(MODEL_STYLES)]
        axes.plot([], [], marker=marker, color=color, linestyle="", label=model)
    if shared:
        axes.plot([], [], ":", color=INK, label=_chance_text(shared) if len(shared) == 1 else "chance, see each label")
    columns = min(len(models) + 1, 4)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, fontsize=9, handlelength=1.4)
    labels = {name: f"{name}, {_chance_text(row)}" if row and len(shared) > 1 else name for name, row in levels.items()}
    label_rows(axes, [wrap_text(label, 34) for label in labels.values()], fontsize=9)
    axes.set(xlim=(-2, 102), ylim=(len(table) - 0.5, -0.5), xlabel="correct (%), with 95 % confidence interval")
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    return figure


def _chance_text(levels: Iterable[float]) -> str:
    return f"chance {' / '.join(f'{level:.1f}' for level in sorted(levels))} %"


def _fields(score: Any) -> Mapping[str, Any]:
    return score if isinstance(score, Mapping) else vars(score) if score is not None else {}


def _draw_score(axes: Axes, fields: Mapping[str, Any], y: float, color: str, marker: str) -> None:
    percent = fields.get("percent")
    if percent is None:
        axes.text(0, y, "not measured", color=GRAY, va="center", fontsize=8)
        return
    low, high = (percent if fields.get(end) is None else fields[end] for end in ("low", "high"))
    axes.plot([low, high], [y, y], color=color, linewidth=2.2, alpha=0.55, solid_capstyle="butt", zorder=2)
    axes.plot(percent, y, marker, color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.6, zorder=3)


@styled
def margins_by_category(margins: Mapping[str, Iterable[CaseScore]], title: str = "Margin of each case") -> Figure:
    """Plot every case as a dot by category, a panel per model: `margins_by_category({"base": result.per_case()})`.

    All cases must have the same score ("group", "accuracy", …). A case is correct if its margin is positive; a tie is
    incorrect. Raises ValueError for no case or several scores.
    """
    cases = {model: list(rows) for model, rows in margins.items()}
    scores = {case.score for rows in cases.values() for case in rows}
    if len(scores) != 1:
        raise ValueError(f"cases of {len(scores)} scores ({', '.join(sorted(scores))}): give the cases of one score")
    categories = sorted({case.category for rows in cases.values() for case in rows})
    width, height = max(6.0, 2.6 * len(cases) + 1.4), 0.5 * len(categories) + 1.9
    correct = (f"{model} {sum(case.margin > 0 for case in rows)} of {len(rows)}" for model, rows in cases.items())
    figure = new_figure(width, height, title, f"correct: {', '.join(correct)}")
    panels = np.ravel(figure.subplots(1, len(cases), sharey=True))
    for panel, (model, rows) in zip(panels, cases.items(), strict=True):
        for y, category in enumerate(categories):
            _draw_margins(panel, y, np.array([case.margin for case in rows if case.category == category]))
        panel.axvline(0, color=INK, linewidth=1)
        panel.set_title(model)
        label_rows(panel, categories)
        panel.locator_params(axis="x", nbins=4)
    figure.supxlabel(f"margin of the {scores.pop()} score (cosine); 0 or less: incorrect", fontsize=9)
    return figure


def _draw_margins(axes: Axes, y: int, margins: np.ndarray) -> None:
    """Draw one category's margins, spread vertically so that equal ones stay visible, and the count of correct ones."""
    if not margins.size:
        return
    spread = 0.22 * np.linspace(-1, 1, len(margins))[np.random.default_rng(0).permutation(len(margins))]
    correct = margins > 0
    axes.plot(margins[correct], y + spread[correct], "o", color=BLUE, markersize=4, alpha=0.7, markeredgewidth=0)
    axes.plot(margins[~correct], y + spread[~correct], "x", color=ORANGE, markersize=4, alpha=0.9)
    axes.text(
        0.99, y - 0.3, f"{correct.sum()} of {len(margins)} correct", transform=axes.get_yaxis_transform(),
        ha="right", va="bottom", fontsize=8, color=INK,
    )  # fmt: skip


def check_case(images: Sequence[Any], captions: Sequence[str], scores: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return each model's scores as a float64 (2, 2) array; raise ValueError unless all belong to one case."""
    grids = {name: np.asarray(grid, dtype=np.float64) for name, grid in scores.items()}
    shapes = sorted({grid.shape for grid in grids.values()})
    if len(images) != 2 or len(captions) != 2 or shapes not in ([], [(2, 2)]):
        raise ValueError(
            f"{len(images)} images, {len(captions)} captions, scores of shapes {shapes or 'none'}; "
            "a case has two images, two captions and a (2, 2) score grid for each model"
        )
    return grids


def winoground_correct(grid: Any) -> dict[str, bool]:
    """Check the scores of one Winoground case: `winoground_correct([[0.9, 0.1], [0.2, 0.8]])["group"]` is True."""
    margins = winoground_margins(np.asarray(grid)[None])
    return {part: bool(margins[part].correct[0]) for part in ("text", "image", "group")}


@styled
def word_importance_bars(
    image: ImageLike, importance: Mapping[str, WordImportance], title: str = "Word importance"
) -> Figure:
    """Plot a bar per caption word, a panel per model: `word_importance_bars(image, {"base": word_importance(…)})`.

    Each panel has its own scale, since the similarities of models spread differently. Raises ValueError unless all
    models scored the same caption.
    """
    captions = {result.words for result in importance.values()}
    if len(captions) != 1:
        raise ValueError(f"{len(captions)} captions for {len(importance)} models: give each model the same caption")
    words = list(captions.pop())
    largest = (f"{model} “{words[result.importance.argmax()]}”" for model, result in importance.items())
    size = 2.6 * (len(importance) + 1), max(2.8, 0.27 * len(words) + 1.7)
    figure = new_figure(*size, title, f"most important: {', '.join(largest)}")
    axes = np.ravel(figure.subplots(1, len(importance) + 1))
    show_image(axes[0], image)
    for index, (panel, (model, result)) in enumerate(zip(axes[1:], importance.items(), strict=True)):
        colors = np.where(result.importance > 0, BLUE, VERMILION)
        bars = panel.barh(range(len(words)), result.importance, height=0.62, color=colors)
        labels = [f"{value:+z.3f}".replace("-", "−") for value in result.importance]
        panel.bar_label(bars, labels, padding=4, fontsize=8)
        label_rows(panel, words if index == 0 else [""] * len(words))
        panel.margins(x=0.45)
        panel.axvline(0, color=GRAY, linewidth=1)
        panel.locator_params(axis="x", nbins=3)
        panel.spines["left"].set_visible(False)
        panel.set_title(f"{model}: {result.score:.3f}")
    figure.supxlabel("drop of the similarity (cosine, above each panel) without the word", fontsize=9)
    return figure
