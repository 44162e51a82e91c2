"""Comparisons, margins and single cases show the scores that they are given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from vladva_kit import plots
from vladva_kit.analysis import WordImportance
from vladva_kit.evaluation import Score
from vladva_kit.evaluation.cases import CaseScore
from vladva_kit.plots.style import BLUE, VERMILION

IMAGE = Image.new("RGB", (20, 30), "red")


def case(category, margin, score="group"):
    return CaseScore(score, "0", category, "image", "caption", "other", margin, margin > 0)


def test_models_are_compared_with_intervals_chance_and_missing_values(texts_of):
    table = {
        "text → image\nR@1": {
            "base": Score(10.0, 8.0, 12.5, 1.0, 100, 0),
            "tuned": {"percent": 60.0, "low": 55.0, "high": 66.0},
        },
        "group": {"base": None, "tuned": {"percent": 50.0, "chance": 16.7}},
    }
    figure = plots.model_comparison(table)
    axes = figure.axes[0]
    spans = [tuple(line.get_xdata()) for line in axes.lines]
    for expected in ((8.0, 12.5), (10.0,), (55.0, 66.0), (60.0,), (50.0, 50.0), (1.0, 1.0), (16.7, 16.7)):
        assert expected in spans
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["text → image\nR@1, chance 1.0 %", "group, chance 16.7 %"]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["base", "tuned", "chance, see each label"]
    assert texts_of(figure).count("not measured") == 1 and "(%)" in axes.get_xlabel()
    assert figure.get_suptitle().endswith("Text → image R@1: base 10.0 %, tuned 60.0 %")
    with pytest.raises(ValueError, match="no model"):
        plots.model_comparison({"R@1": {}})


def test_a_chance_level_that_all_scores_share_is_in_the_legend():
    table = {name: {"base": Score(60.0, 50.0, 70.0, 50.0, 100, 0)} for name in ("swap", "add")}
    table["caption truth"] = {"base": Score(60.0, 50.0, 70.0, None, 100, 0)}
    axes = plots.model_comparison(table).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base", "chance 50.0 %"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(table)
    axes = plots.model_comparison({"caption truth": table["caption truth"]}).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base"]


def test_every_margin_is_a_dot_in_its_category_and_correct_ones_are_counted(texts_of):
    figure = plots.margins_by_category(
        {"one": [case("b", 0.5), case("a", -0.5), case("b", 0.0)], "two": [case("a", 1)]}
    )
    one, _ = figure.axes
    assert [tick.get_text() for tick in one.get_yticklabels()] == ["a", "b"]
    dots = [(line.get_marker(), x, round(y)) for line in one.lines[:-1] for x, y in zip(*line.get_data(), strict=True)]
    assert sorted(dots) == [("o", 0.5, 1), ("x", -0.5, 0), ("x", 0.0, 1)]
    assert {"0 of 1 correct", "1 of 2 correct", "1 of 1 correct"} <= set(texts_of(figure))
    assert "margin of the group score" in figure.get_supxlabel()
    assert figure.get_suptitle().endswith("Correct: one 1 of 3, two 1 of 1")


def test_margins_of_several_scores_or_of_no_case_raise_errors():
    with pytest.raises(ValueError, match="2 scores \\(group, text\\)"):
        plots.margins_by_category({"m": [case("a", 0.1), case("a", 0.1, "text")]})
    with pytest.raises(ValueError, match="0 scores"):
        plots.margins_by_category({"m": []})


def test_winoground_correct_counts_a_tie_as_incorrect():
    assert plots.winoground_correct([[0.9, 0.1], [0.2, 0.8]]) == {"text": True, "image": True, "group": True}
    assert plots.winoground_correct([[0.9, 0.9], [0.2, 0.8]]) == {"text": False, "image": False, "group": False}


def test_word_importance_has_a_bar_per_word_and_model(texts_of):
    result = WordImportance(("a", "$blue$", "dog"), 0.5, np.array([0.5, 0.75, 0.25]))
    figure = plots.word_importance_bars(IMAGE, {"base": result, "tuned": result})
    for axes in figure.axes[1:]:
        bars = [(bar.get_width(), to_hex(bar.get_facecolor()).upper()) for bar in axes.patches]
        assert bars == [(0.0, VERMILION), (-0.25, VERMILION), (0.25, BLUE)]
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == ["a", "$blue$", "dog"]
    assert figure.axes[1].get_ylim()[0] > figure.axes[1].get_ylim()[1]  # the first word is on top
    assert {"base: 0.500", "+0.000", "−0.250", "+0.250"} <= set(texts_of(figure))
    assert figure.get_suptitle().endswith("Most important: base “dog”, tuned “dog”")
    with pytest.raises(ValueError, match="same caption"):
        plots.word_importance_bars(IMAGE, {"a": result, "b": WordImportance(("x", "y"), 0.1, np.zeros(2))})
