"""The study's figures: one per claim, with title, labels and the values of the results."""

import pytest

from experiments.paper.claims import CLAIMS
from experiments.paper.figures import claim_figures, density_before_after, score_panels
from experiments.paper.plan import BASE, FULL
from experiments.paper.tables import value_of, variants_of


def test_every_claim_has_its_figure_with_title_and_labels(results):
    figures = claim_figures(results)
    assert set(figures) == {claim.figure for claim in CLAIMS} - {""}
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
    assert texts_of(figure).count("not measured") == 2  # the two CLIPs


def test_densities_are_shown_in_percent(texts_of):
    texts = texts_of(density_before_after([[0.1, 0.2]], [[0.5, 0.7]]))
    assert {"10", "20", "50", "70"} <= set(texts)
    assert any("15 → 60 % of the image tokens" in text for text in texts)
