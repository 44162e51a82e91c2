"""Draw one figure per claim from the results of the study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.paper.claims import SIDES
from experiments.paper.plan import BASE, BOTH, CLIP_TUNED, DISTILLED, FULL, LORA, SOFT
from experiments.paper.tables import GENERATION, RETRIEVAL, STYLES, Results, runs_of, values_of, variants_of
from vladva_kit.plots import loss_curves, variance_before_after
from vladva_kit.plots.style import BLUE, GRAY, INK, MODEL_STYLES, ORANGE, label_rows, new_figure, styled, wrap_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vladva_kit.evaluation.bootstrap import Score

COMPOSITION = tuple(
    f"{score}, {style}"
    for style in STYLES
    for score in ("SugarCrepe replace", "SugarCrepe swap", "SugarCrepe add", "Winoground group")
)
TWIN_LOSS = "twin-loss"  # file name
MIN_CHANCE = 5  # percent; a lower chance level, as of R@1 among hundreds, is not drawn


@styled
def score_panels(
    results: Results, experiment: str, columns: Sequence[str], title: str, panels_per_row: int = 4
) -> Figure:
    """Draw an experiment's variants, one panel per score: mean over seeds, 95 % interval, chance as a dotted line.

    score_panels(results, "components", RETRIEVAL, "Retrieval by component")
    """
    all_values = values_of(results, experiment)
    values = {column: all_values[column] for column in columns}
    variants = list(variants_of(results, experiment))
    n_columns = min(panels_per_row, len(columns))
    n_rows = -(-len(columns) // n_columns)
    height = n_rows * (0.32 * len(variants) + 1.0) + 0.7
    figure = new_figure(2.3 * n_columns + 1.6, height, title, _largest_difference(values))
    panels = np.ravel(figure.subplots(n_rows, n_columns, sharey=True, squeeze=False))
    chance = {column: max(value.chance or 0.0 for value in row.values() if value) for column, row in values.items()}
    for axes, (column, row) in zip(panels, values.items(), strict=False):
        _draw_panel(axes, row, column)
        if chance[column] >= MIN_CHANCE:
            axes.axvline(chance[column], linestyle=":", color=INK, linewidth=1.2, zorder=0)
        # panels with the same chance level share a scale
        alike = [value for other in columns if chance[other] == chance[column] for value in values[other].values()]
        axes.set_xlim(_limits(alike))
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    dotted = "; dotted line: chance" if max(chance.values()) >= MIN_CHANCE else ""
    figure.supxlabel(f"correct (%), mean over seeds with 95 % interval over cases{dotted}", fontsize=9)
    return figure


def _largest_difference(values: Mapping[str, Mapping[str, Score | None]]) -> str:
    """State the score that differs most between variants."""
    known = {score: [(one.percent, name) for name, one in row.items() if one] for score, row in values.items()}
    score = max(known, key=lambda score: max(known[score])[0] - min(known[score])[0])
    (low, lowest), (high, highest) = min(known[score]), max(known[score])
    return f"largest difference: {score}, {low:.0f} % ({lowest}) to {high:.0f} % ({highest})"


def _limits(values: Sequence[Score | None]) -> tuple[float, float]:
    """Return axis limits at multiples of 10 that contain all intervals, and the chance level if it is drawn."""
    known = [value for value in values if value]
    ends = [
        end for one in known for end in (one.low, one.high, *([one.chance] if (one.chance or 0) >= MIN_CHANCE else []))
    ]
    low, high = 10 * np.floor((min(ends) - 2) / 10), 10 * np.ceil((max(ends) + 2) / 10)
    return max(low, -2), min(high, 104)


def _draw_panel(axes: Axes, values: Mapping[str, Score | None], title: str) -> None:
    for y, value in enumerate(values.values()):
        color, marker = MODEL_STYLES[y % len(MODEL_STYLES)]
        if value is None:
            axes.text(0.03, y, "not measured", color=GRAY, fontsize=7, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
            continue
        axes.plot([value.low, value.high], [y, y], color=color, linewidth=2.2, alpha=0.6)
        axes.plot(value.percent, y, marker, color=color, markersize=6, markeredgecolor="white")
        axes.annotate(
            f"{value.percent:.0f}", (value.percent, y), (0, 5), textcoords="offset points", ha="center", fontsize=7,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    axes.set_title(title.replace(", ", "\n"), fontsize=8, fontweight="normal")
    label_rows(axes, [wrap_text(name, 24) for name in values], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)


@styled
def twin_loss_curves(
    curves: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], title: str = "Loss on test twins during training"
) -> Figure:
    """Draw the loss on test twins, one curve per seed, with ln 2, which no model that ignores word order gets below.

    twin_loss_curves({"emoji-clip": [{"step": [10, 20], "eval_twin_loss": [0.71, 0.70]}]})
    """
    bound = float(np.log(2))
    ends = {name: float(np.mean([one["eval_twin_loss"][-1] for one in runs])) for name, runs in curves.items()}
    sides = {"below ln 2 at the end": [], "not": []}
    for name, end in ends.items():
        sides["below ln 2 at the end" if end < bound else "not"].append(f"{name} {end:.2f}")
    answer = "; ".join(f"{side}: {', '.join(names)}" for side, names in sides.items() if names)
    figure = new_figure(6.4, 3.8, title, wrap_text(answer, 76))
    axes = figure.subplots()
    for (name, runs), (color, marker) in zip(curves.items(), MODEL_STYLES, strict=False):
        for index, run in enumerate(runs):
            line = {"color": color, "marker": marker, "markersize": 4, "alpha": 0.8}
            axes.plot(run["step"], run["eval_twin_loss"], label=None if index else name, **line)
    axes.axhline(bound, linestyle="--", color=INK, linewidth=1.2)
    axes.annotate("ln 2: word order ignored", (1, bound), (-4, -12), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


@styled
def density_before_after(before: Any, after: Any, title: str = "Attention density of the summary token") -> Figure:
    """Draw attention density (layers, heads), 0 to 1, before and after fine-tuning, in percent."""
    grids = [100 * np.asarray(grid, dtype=float) for grid in (before, after)]
    means = [grid.mean() for grid in grids]
    answer = f"mean over layers and heads: {means[0]:.0f} → {means[1]:.0f} % of the image tokens"
    figure = new_figure(7.0, 0.42 * len(grids[0]) + 2.1, title, answer)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, grid, label in zip(panels, grids, ("before fine-tuning", "after fine-tuning"), strict=True):
        image = axes.imshow(grid, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for (layer, head), value in np.ndenumerate(grid):
            ink = "white" if value > 60 else INK
            axes.text(head, layer, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)
        axes.set_title(label, fontweight="normal")
        axes.set(xlabel="head", yticks=range(len(grid)))
    panels[0].set_ylabel("layer")
    figure.colorbar(image, ax=panels, label="attended image tokens (%)", shrink=0.9)
    return figure


@styled
def entropy_before_after(
    before: Mapping[str, Any], after: Mapping[str, Any], title: str = "Entropy of the summary token's next word"
) -> Figure:
    """Draw the entropies (n,) of image and text prompts before and after fine-tuning, in nats."""
    states = {"before": (before, ORANGE, "s"), "after": (after, BLUE, "o")}
    medians = {name: [np.median(values[side]) for values, *_ in states.values()] for side, name in SIDES.items()}
    answer = "median: " + ", ".join(f"{name} {old:.2f} → {new:.2f}" for name, (old, new) in medians.items()) + " nats"
    figure = new_figure(5.2, 3.4, title, answer)
    axes, labels = figure.subplots(), []
    for side, name in SIDES.items():
        for state, (values, color, marker) in states.items():
            y = len(labels)
            low, median, high = np.quantile(np.asarray(values[side], dtype=float), [0.05, 0.5, 0.95])
            axes.plot([low, high], [y, y], color=color, linewidth=3, alpha=0.6)
            axes.plot(median, y, marker, color=color, markersize=8, markeredgecolor="white")
            axes.annotate(f"{median:.2f}", (median, y), (0, 7), textcoords="offset points", ha="center", fontsize=8)
            labels.append(f"{name}, {state}")
    label_rows(axes, labels)
    axes.set_xlabel("entropy (nats): median, 5th to 95th percentile")
    axes.grid(axis="x", alpha=0.3)
    return figure


@styled
def prompt_scatter(study: Mapping[str, Any], title: str = "Prompt entropy and retrieval before training") -> Figure:
    """Plot entropy against R@1, a dot per prompt, with correlations: `prompt_scatter(study_prompts(…))`.

    Prompts of the pretraining are squares; the correlations are without them.
    """
    prompts = study["prompts"]
    pretrained = np.array([one["pretrained"] for one in prompts])
    entropy = np.array([(one["image_entropy"] + one["text_entropy"]) / 2 for one in prompts])
    recall = np.array([(one["image_to_text"] + one["text_to_image"]) / 2 for one in prompts])
    correlations = "; ".join(
        f"{name.capitalize()} {result['value']:.2f} [{result['low']:.2f}, {result['high']:.2f}]".replace("-", "−")
        for name, result in study["correlations"].items()
        if result
    )
    figure = new_figure(5.6, 4.0, title, correlations)
    axes = figure.subplots()
    axes.plot(entropy[~pretrained], recall[~pretrained], "o", color=BLUE, alpha=0.75, markeredgecolor="white")
    if pretrained.any():
        label = "answered with a noun in pretraining; not in the correlations"
        axes.plot(entropy[pretrained], recall[pretrained], "s", color=ORANGE, markeredgecolor="white", label=label)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, handletextpad=0.1)
    for i, offset, side in ((int(np.argmax(recall)), 6, "bottom"), (int(np.argmin(recall)), -6, "top")):
        left = entropy[i] < (min(entropy) + max(entropy)) / 2
        axes.annotate(
            wrap_text(prompts[i]["image_prompt"], 36), (entropy[i], recall[i]), (0, offset), fontsize=8, color=INK,
            textcoords="offset points", va=side, ha="left" if left else "right",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    axes.margins(0.1, 0.15)
    axes.set(xlabel="next-token entropy of the summary token (nats)", ylabel="R@1, both directions (%)")
    axes.grid(alpha=0.3)
    return figure


_SWEEP_SCORES = (*RETRIEVAL, "SugarCrepe swap, seen", "Winoground group, seen")
_GENERATION_SCORES = tuple(f"{score}, {style}" for style in STYLES for score in GENERATION.values())
_SCORES = {  # file name -> experiment, scores, title, panels per row
    "retrieval": ("components", RETRIEVAL, "Retrieval by component", 4),
    "composition": ("components", COMPOSITION, "Composition by component", 4),
    "composition-random": ("components-random", COMPOSITION, "Composition by component, random batches", 4),
    "twins": ("twins", _SWEEP_SCORES, "Share of twins in a batch", 4),
    "swaps": ("swaps", _SWEEP_SCORES, "Twins of one kind only", 4),
    "pool": ("pool", _SWEEP_SCORES, "Scenes among which neighbors are mined", 4),
    "clip-steps": ("clip-steps", _SWEEP_SCORES, "The CLIP on hard batches, by steps and learning rate", 4),
    "interpolation": ("interpolation", (*_SWEEP_SCORES, *_GENERATION_SCORES), "LoRA's update, interpolated", 4),
    "generation": ("components", _GENERATION_SCORES, "Generation with the adapter on", 3),
    "batch-size": ("batch-size", _SWEEP_SCORES, "Batch size, at equal pairs seen", 4),
    "data-size": ("data-size", _SWEEP_SCORES, "Number of groups of twins, at equal steps", 4),
    "rank": ("rank", _SWEEP_SCORES, "Rank of LoRA", 4),
    "temperature": ("temperature", _SWEEP_SCORES, "Fixed and learned temperature", 4),
    "next-token-weight": ("next-token-weight", _SWEEP_SCORES, "Weight of the next-token loss", 4),
    "negatives": ("negatives", _SWEEP_SCORES, "Swapped captions as hard negatives", 4),
    **{
        f"distillation-{name}": (f"distillation-{name}", _SWEEP_SCORES, f"Distilling likelihoods, {name} batches", 4)
        for name in DISTILLED
    },
    "soft-prompt-rate": ("soft-prompt-rate", _SWEEP_SCORES, "Soft prompt alone, by learning rate", 4),
}
_PROBES: dict[str, tuple[Callable[..., Figure], str]] = {  # file name -> function, key of the representations
    "attention-density": (density_before_after, "attention_density"),
    "entropy": (entropy_before_after, "entropy"),
    "variance": (variance_before_after, "cumulative"),
}


def claim_figures(results: Results) -> dict[str, Figure]:
    """Draw all figures whose experiments are in the results, by file name: `claim_figures(results)["retrieval"]`.

    Probes compare the base with the first seed of the full method.
    """
    experiments = results["experiments"]
    figures = {name: score_panels(results, *options) for name, options in _SCORES.items() if options[0] in experiments}
    if "components" in experiments:
        before, after = (runs_of(results, "components", name)[0]["representations"] for name in (BASE, FULL))
        figures |= {name: draw(before[key], after[key]) for name, (draw, key) in _PROBES.items()}
        trained = {name: variants_of(results, "components")[name] for name in (CLIP_TUNED, SOFT, LORA, BOTH, FULL)}
        if "components-random" in experiments:
            trained[f"{FULL}, random batches"] = runs_of(results, "components-random", FULL)
        curves = {name: [run["validation"] for run in runs] for name, runs in trained.items()}
        figures[TWIN_LOSS] = twin_loss_curves(curves)
    if "collapse" in experiments:
        curves = {name: [run["history"] for run in runs] for name, runs in variants_of(results, "collapse").items()}
        figures["collapse"] = loss_curves(curves, "Contrastive loss on short and on long captions")
    if results.get("prompts"):
        figures["prompts"] = prompt_scatter(results["prompts"])
    return figures
