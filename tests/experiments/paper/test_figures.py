"""The figures: every one is drawn from results, says what its axes are, and shows the numbers that it was given."""

import numpy as np
import pytest

from experiments.paper.claims import CLAIMS
from experiments.paper.figures import FIGURES, claim_figures, density_before_after, rows_over_columns
from experiments.paper.plan import BASE, FULL
from experiments.paper.tables import figure_of
from vladva_kit import plots
from vladva_kit.plots.study import loss_curves


def test_there_is_a_figure_for_each_name_and_it_has_a_title_and_labels(results):
    figures = claim_figures(results)
    assert set(figures) == {*FIGURES, "prompts"}
    assert {claim.figure for claim in CLAIMS} - {""} <= set(figures)
    for name, figure in figures.items():
        assert figure.get_suptitle(), name
        labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())]
        assert any([*labels, figure.get_supxlabel()]), name


def test_figures_become_png_and_svg(results, tmp_path):
    figures = claim_figures(results)
    for name in ("retrieval", "attention-maps", "prompts"):
        png, svg = plots.save(figures[name], tmp_path / name)
        assert png.read_bytes()[:4] == b"\x89PNG" and b"<svg" in svg.read_bytes()


def test_only_what_was_run_is_drawn(results):
    only = {**results, "experiments": {"rank": results["experiments"]["rank"]}, "prompts": None}
    assert set(claim_figures(only)) == {"rank"}


def test_rows_stand_where_their_figures_are(results):
    column = "text → image R@1, seen"
    figure = rows_over_columns(results, "components", [column], "t")
    (axes,) = [axes for axes in figure.axes if axes.get_visible()]
    rows = [row["name"] for row in results["experiments"]["components"]["rows"]]
    for row in (BASE, FULL):
        found = figure_of(results, "components", row, column)
        points = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_ydata()[0] == rows.index(row)]
        assert points[0].get_xdata()[0] == pytest.approx(found.mean)
        spans = [line for line in axes.lines if list(line.get_ydata()) == [rows.index(row)] * 2]
        assert list(spans[0].get_xdata()) == pytest.approx([found.low, found.high])


def test_a_row_that_was_not_measured_says_so(results, texts_of):
    figure = rows_over_columns(results, "components", ["question accuracy, adapter on, seen"], "t")
    assert texts_of(figure).count("not measured") == 2  # the two CLIPs


def test_curves_are_told_apart_without_color(results):
    history = {"step": [1, 2, 3], "contrastive": [3.0, 2.0, 1.0]}
    figure = loss_curves({"short": [history, history], "long": [history]}, "t")
    lines = figure.axes[0].lines
    assert len(lines) == 3 and len({line.get_linestyle() for line in lines}) == 2
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["short", "long"]
    assert np.array_equal(lines[0].get_ydata(), [3, 2, 1])


def test_densities_are_written_in_percent(texts_of):
    texts = texts_of(density_before_after([[0.1, 0.2]], [[0.5, 0.7]]))
    assert {"10", "20", "50", "70", "before training: 15 % on average", "after training: 60 % on average"} <= set(texts)
