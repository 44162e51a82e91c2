"""Single tabs under the names of widgets: what they show first, and what they do not compute again."""

import dataclasses

import numpy as np
import pytest
from color_encoder import sugarcrepe_result

import vladva_kit as vk
from vladva_kit.evaluation import evaluate_winoground
from vladva_kit.widgets import SugarCrepeProbe, WinogroundProbe


@pytest.fixture
def results(colors, confused):
    return {"confused": sugarcrepe_result(confused), "sees": sugarcrepe_result(colors)}


def test_a_probe_is_a_page_with_one_tab_and_scores_every_case_once(colors, confused, cases):
    page = WinogroundProbe({"confused": confused, "sees": colors}, cases)
    assert page.state["tabs"] == ["probe"] and page.state["pairs"] == []
    assert [case["category"] for case in page.state["cases"]] == ["Object", "Relation", "Object"]
    assert page.score_cases() == {"fixed": 3, "broken": 0, "right": 0, "wrong": 0}
    encoded = len(colors.images), len(colors.texts)
    page.handle({"do": "cases", "cases": [0, 1, 2]})
    assert (len(colors.images), len(colors.texts)) == encoded


def test_known_results_are_not_computed_again(colors):
    folder = vk.sample("winoground_mini")
    result = evaluate_winoground(colors, folder)
    encoded = len(colors.images), len(colors.texts)
    page = WinogroundProbe({"sees": colors}, folder, {"sees": result})
    counts = page.score_cases()
    assert (len(colors.images), len(colors.texts)) == encoded
    assert round(100 * counts["right"] / result.n, 6) == round(result.group.percent, 6)
    case = next(case for case in result.cases if case.id == page.cases[5].id)
    assert np.allclose(page.handle({"do": "cases", "cases": [5]})["scores"]["5"][0], case.similarities)


def test_results_of_one_model_are_completed_with_the_scores_of_the_others(colors, confused):
    result = evaluate_winoground(confused, vk.sample("winoground_mini"))
    cases = list(result.cases[:3])
    page = WinogroundProbe({"confused": confused, "sees": colors}, cases, {"confused": result})
    assert page.scores == {}
    grids = page.handle({"do": "cases", "cases": [1]})["scores"]["1"]
    assert np.allclose(grids[0], cases[1].similarities) and np.shape(grids[1]) == (2, 2)


def test_a_model_known_by_its_results_alone_is_shown_until_the_case_is_edited(colors, confused):
    result = evaluate_winoground(confused, vk.sample("winoground_mini"))
    page = WinogroundProbe({"sees": colors}, list(result.cases[:3]), {"recorded": result})
    assert list(page.models) == ["sees", "recorded"] and page.view().count("<table>") == 2
    reply = page.handle({"do": "score", "images": [0, 1], "captions": ["a red wall", "a wall"], "case": 0})
    assert reply["scores"][1] is None and "recorded: only its recorded scores are known" in reply["notes"][0]


def test_sugarcrepe_cases_come_worst_first_and_need_no_encoding(colors, confused, results):
    colors.images.clear()
    page = SugarCrepeProbe({"confused": confused, "sees": colors}, results)
    worst = sorted(results["sees"].cases, key=lambda case: case.margin)
    assert [case["captions"] for case in page.state["cases"]] == [
        [case.caption, case.negative_caption] for case in worst
    ]
    assert {case["category"] for case in page.state["cases"]} == {"add object", "swap attribute"}
    assert [len(case["images"]) for case in page.state["cases"]] == [1] * 4
    right = {name: [case.margin > 0 for case in result.cases] for name, result in results.items()}
    fixed = sum(after and not before for before, after in zip(right["confused"], right["sees"], strict=True))
    assert page.score_cases()["fixed"] == fixed > 0 and colors.images == []
    assert page.view().count("<img ") == 1 and f"{fixed} fixed" in page.view()


def test_an_edited_sugarcrepe_case_is_scored(colors, confused, results):
    page = SugarCrepeProbe({"confused": confused, "sees": colors}, results)
    captions = ["a blue and green wall", page.cases[0].captions[1]]
    reply = page.handle({"do": "score", "images": page.state["cases"][0]["images"], "captions": captions, "case": 0})
    assert np.allclose(reply["scores"][1], page.models["sees"].similarity(page.cases[0].images, captions))
    assert np.shape(reply["scores"][1]) == (1, 2)


def test_missing_results_or_results_on_different_cases_are_an_error(colors, results):
    complete = sugarcrepe_result(colors)
    fewer = dataclasses.replace(complete, cases=complete.cases[1:])
    for wrong in ({}, {**results, "fewer": fewer}):
        with pytest.raises(ValueError, match="on the same cases"):
            SugarCrepeProbe({"sees": colors}, wrong)
