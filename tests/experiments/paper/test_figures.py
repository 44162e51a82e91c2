"""The study's figures: one per claim, with title, labels and the values of the results."""

import io
import math

import pytest
from figure_text import assert_text_is_readable

from experiments.paper.claims import CLAIMS
from experiments.paper.figures import (
    TWIN_LOSS,
    claim_figures,
    density_before_after,
    prompt_scatter,
    score_panels,
    twin_loss_curves,
)
from experiments.paper.plan import BASE, CLIP, CLIP_FASTER, CLIP_TUNED, FULL, LORA, SOFT
from experiments.paper.tables import value_of, variants_of


def test_every_claim_has_its_figure_with_title_and_labels(results):
    figures = claim_figures(results)
    assert set(figures) == {claim.figure for claim in CLAIMS} - {""} | {TWIN_LOSS}
    for name, figure in figures.items():
        assert figure.get_suptitle(), name
        labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())]
        assert any([*labels, figure.get_supxlabel()]), name


def test_figures_of_missing_experiments_are_omitted(results):
    only = {**results, "experiments": {"rank": results["experiments"]["rank"]}, "prompts": None}
    assert set(claim_figures(only)) == {"rank"}


def test_panel_shows_means_and_intervals(results):
    column = "text → image R@1, seen"
    figure = score_panels(results, "components", [column], "t")
    (axes,) = [axes for axes in figure.axes if axes.get_visible()]
    variants = list(variants_of(results, "components"))
    for variant in (BASE, FULL):
        value, y = value_of(results, "components", variant, column), variants.index(variant)
        points = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_ydata()[0] == y]
        assert points[0].get_xdata()[0] == pytest.approx(value.percent)
        intervals = [line for line in axes.lines if list(line.get_ydata()) == [y, y]]
        assert list(intervals[0].get_xdata()) == pytest.approx([value.low, value.high])


def test_panel_marks_variants_that_were_not_measured(results, texts_of):
    figure = score_panels(results, "components", ["question accuracy, seen"], "t")
    assert texts_of(figure).count("not measured") == 5
    rows = [text.get_position()[1] for text in figure.axes[0].texts if text.get_text() == "not measured"]
    assert [list(variants_of(results, "components"))[row] for row in rows] == [
        CLIP,
        CLIP_TUNED,
        CLIP_FASTER,
        SOFT,
        LORA,
    ]


def test_twin_loss_curves_say_which_models_end_below_ln_2(texts_of):
    curves = {name: [{"step": [1, 2], "eval_twin_loss": [0.8, end]}] * 2 for name, end in (("a", 0.7), ("b", 0.2))}
    figure = twin_loss_curves(curves)
    shown = " ".join(texts_of(figure)).replace("\n", " ").replace("  ", " ")
    assert "Below ln 2 at the end: b 0.20; not: a 0.70" in shown
    (axes,) = figure.axes
    assert any(list(line.get_ydata()) == pytest.approx([math.log(2)] * 2) for line in axes.lines)
    assert sum(list(line.get_ydata()) == [0.8, 0.2] for line in axes.lines) == 2  # one curve per seed


def test_densities_are_shown_in_percent(texts_of):
    texts = texts_of(density_before_after([[0.1, 0.2]], [[0.5, 0.7]]))
    assert {"10", "20", "50", "70"} <= set(texts)
    assert any("15 → 60 % of the image tokens" in text for text in texts)


def test_prompts_are_dots_and_the_extremes_are_named(texts_of):
    values = [(1.0, 10.0), (2.0, 40.0), (3.0, 20.0)]
    prompts = [
        {"image_prompt": f"prompt {i}", "image_entropy": x - 1, "text_entropy": x + 1, "image_to_text": y}
        | {"text_to_image": y + 2, "pretrained": False}
        for i, (x, y) in enumerate(values)
    ]
    correlations = {"spearman": {"value": 0.5, "low": -0.1, "high": 0.9, "n": 3}, "pearson": None}
    figure = prompt_scatter({"prompts": prompts, "correlations": correlations})
    assert [tuple(point) for point in figure.axes[0].lines[0].get_xydata()] == [(x, y + 1) for x, y in values]
    texts = texts_of(figure)
    assert "prompt 0" in texts and "prompt 1" in texts and "prompt 2" not in texts
    assert figure.get_suptitle().endswith("\nSpearman 0.50 [−0.10, 0.90]")
    assert figure.axes[0].get_legend() is None
    prompts[1]["pretrained"] = True
    axes = prompt_scatter({"prompts": prompts, "correlations": correlations}).axes[0]
    others, marked = (line.get_xydata().tolist() for line in axes.lines)
    assert others == [[1, 11], [3, 21]] and marked == [[2, 41]]
    (label,) = axes.get_legend().get_texts()
    assert label.get_text() == "answered with a noun in pretraining; not in the correlations"


def test_text_of_the_prompt_scatter_is_readable(monkeypatch):
    caption = "a rather long caption about a dog to the left of a cat on grass"
    prompts = [
        {"image_prompt": caption, "image_entropy": i, "text_entropy": i, "image_to_text": 9 * i, "text_to_image": 8 * i}
        | {"pretrained": i == 8}
        for i in range(1, 9)
    ]
    study = {
        "prompts": prompts,
        "correlations": {"spearman": {"value": -0.5, "low": -0.6, "high": -0.4, "n": 8}, "pearson": None},
    }
    assert_text_is_readable(lambda: prompt_scatter(study), monkeypatch)
    prompt_scatter(study).savefig(io.BytesIO(), dpi=30)  # as a notebook does, without the kit's rcParams
