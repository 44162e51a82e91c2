"""Figures of single cases: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from vladva_kit.analysis import WordWeights
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.plots import cases as case_plots
from vladva_kit.plots.style import BLUE, VERMILION

FORMULA = r"costs $5_ to $\broken{"  # as a formula it would fail
RED = Image.new("RGB", (20, 20), "red")


def bars(axes):
    return [(bar.get_width(), to_hex(bar.get_facecolor()).upper()) for bar in axes.patches]


def margin(category, value, score="group"):
    return CaseScore(score, "0", category, "image", "caption", "other", value, value > 0)


def test_a_sugarcrepe_case_shows_both_captions_and_a_bar_a_model_vermilion_where_it_is_wrong_or_tied(texts_of):
    scores = {"right": (0.75, 0.5), "wrong": (0.25, 0.5), "tied": (0.5, 0.5)}
    figure = case_plots.sugarcrepe_case(RED, "a true one", FORMULA, scores)
    assert bars(figure.axes[1]) == [(0.25, BLUE), (-0.25, VERMILION), (0.0, VERMILION)]
    said = texts_of(figure)
    assert f"true:  a true one\nfalse: {FORMULA}" in said
    assert {"+0.250 ✓", "−0.250 ✗", "0.000 ✗", "right", "wrong", "tied"} <= set(said)
    with pytest.raises(ValueError, match="no scores"):
        case_plots.sugarcrepe_case(RED, "a", "b", {})


def test_word_weights_are_a_bar_a_word_for_each_model(texts_of):
    found = WordWeights(("a", "$blue$", "dog"), 0.5, np.array([0.5, 0.75, 0.25]))
    figure = case_plots.word_weights(RED, {"base": found, "tuned": found})
    picture, base, tuned = figure.axes
    assert bars(base) == bars(tuned) == [(0.0, VERMILION), (-0.25, VERMILION), (0.25, BLUE)]
    assert [tick.get_text() for tick in base.get_yticklabels()] == ["a", "$blue$", "dog"]
    assert base.get_ylim()[0] > base.get_ylim()[1]  # the first word is on top
    assert "base: 0.500" in texts_of(figure)
    with pytest.raises(ValueError, match="same caption"):
        case_plots.word_weights(RED, {"a": found, "b": WordWeights(("x", "y"), 0.1, np.zeros(2))})


def test_every_margin_is_a_dot_in_its_category_and_those_right_are_counted(texts_of):
    margins = {"one": [margin("b", 0.5), margin("a", -0.5), margin("b", 0.0)], "two": iter([margin("a", 0.25)])}
    figure = case_plots.margins_by_category(margins)
    one, two = figure.axes
    assert [tick.get_text() for tick in one.get_yticklabels()] == ["a", "b"]
    drawn = [(line.get_marker(), x, round(y)) for line in one.lines[:-1] for x, y in zip(*line.get_data(), strict=True)]
    assert sorted(drawn) == [("o", 0.5, 1), ("x", -0.5, 0), ("x", 0.0, 1)]
    assert {"0 of 1 right", "1 of 2 right", "1 of 1 right"} <= set(texts_of(figure))
    assert "margin of the group score" in figure.get_supxlabel()


def test_margins_of_several_scores_or_of_none_are_refused():
    with pytest.raises(ValueError, match="2 scores \\(group, text\\)"):
        case_plots.margins_by_category({"m": [margin("a", 0.1), margin("a", 0.1, "text")]})
    with pytest.raises(ValueError, match="0 scores"):
        case_plots.margins_by_category({"m": []})


def test_the_hardest_pairs_are_those_whose_own_picture_trails_most(texts_of):
    scores = np.array([[0.9, 0.1, 0.8], [0.2, 0.3, 0.1], [0.1, 0.7, 0.6]])  # [picture][caption]
    pictures = [Image.new("RGB", (8, 8), name) for name in ("red", "green", "blue")]
    figure = case_plots.hardest_pairs(scores, pictures, ["zero", FORMULA, "two"], k=2)
    said = texts_of(figure)
    assert FORMULA in said and "two" in said and "zero" not in said
    rows = [figure.axes[place : place + 3] for place in (0, 3)]
    shown = [[tuple(axes.images[0].get_array()[80, 80]) for axes in row[1:]] for row in rows]
    assert shown == [[(0, 128, 0), (0, 0, 255)], [(0, 0, 255), (255, 0, 0)]]
    assert {"0.300, rank 2 of 3", "0.700, the best other", "0.600, rank 2 of 3", "0.800, the best other"} <= set(said)
    with pytest.raises(ValueError, match="picture i must belong to caption i"):
        case_plots.hardest_pairs(scores[:2], pictures[:2], ["a", "b", "c"])
