"""The probe: what it shows is what an independent count gives, and it asks the models for nothing twice."""

import html
import re

import numpy as np
import pytest

import vladva_kit as vk
from vladva_kit.evaluation import evaluate_winoground
from vladva_kit.widgets import WinogroundProbe, winoground_view
from vladva_kit.widgets.winoground_probe import EVERY, listed_cases

from .conftest import image_vector, plain, png, put, text_vector

CELL = re.compile(r"<td(?: class=\"own\")?>(-?[\d.]+)</td>")


def shown(view):
    """Numbers of each model's table, as (caption, picture)."""
    tables = re.findall(r"<table>.*?</table>", view, re.S)
    return [np.array([float(value) for value in CELL.findall(table)]).reshape(2, 2) for table in tables]


def expected(images, captions):
    return np.array([[image_vector(image) @ text_vector(text) for image in images] for text in captions])


def test_the_four_scores_and_the_verdict_are_those_of_the_embeddings(colors, confused, cases):
    probe = WinogroundProbe({"sees": colors, "confused": confused}, cases)
    sees, other = shown(probe.view.value)
    assert np.allclose(sees, expected(cases[0].images, cases[0].captions), atol=0.006)
    assert not np.allclose(sees, other, atol=0.05)
    assert re.search(r"sees<br><span class=\"yes\">text ✓</span> <span class=\"yes\">image ✓</span>", probe.view.value)
    assert re.search(r"confused<br>.*✗", probe.view.value)


def test_scores_follow_an_edited_caption_and_only_that_is_encoded(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    asked = len(colors.images), len(colors.texts)
    probe.caption_0.value = "a blue and green wall"
    assert np.allclose(
        shown(probe.view.value)[0], expected(cases[0].images, ["a blue and green wall", "a green wall"]), atol=0.006
    )
    assert (len(colors.images), colors.texts[asked[1] :]) == (asked[0], ["a blue and green wall"])
    probe.caption_0.value = cases[0].captions[0]
    assert len(colors.texts) == asked[1] + 1
    assert "1 of 3: Object" in probe.view.value


def test_next_and_previous_go_round_and_take_captions_along(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    probe.next.click()
    assert probe.caption_0.value == "a blue wall" and "2 of 3: Relation" in probe.view.value
    probe.previous.click()
    probe.previous.click()
    assert (probe.caption_0.value, probe.caption_1.value) == cases[2].captions


def test_filters_wait_for_scores_and_then_show_failures_worst_first(colors, confused, cases):
    probe = WinogroundProbe({"sees": colors, "confused": confused}, cases)
    assert probe.only_failures.disabled and probe.by_margin.disabled
    probe.score_all.click()
    probe.work.wait()
    assert not probe.only_failures.disabled and probe.work.bar.value == probe.work.bar.max
    probe.only_failures.value = True
    assert "no case is left" in probe.view.value
    probe.judge.value, probe.by_margin.value = "confused", True
    margins = []
    for case in cases:
        grid = np.array(confused.encode_image(case.images)) @ np.array(confused.encode_text(case.captions)).T
        (a, b), (c, d) = grid
        margins.append(min(a - b, d - c, a - c, d - b))
    assert probe.places == sorted((p for p in range(3) if margins[p] <= 0), key=lambda p: margins[p])
    assert probe.places
    probe.category.value = "Relation"
    assert probe.places == [p for p in range(3) if margins[p] <= 0 and cases[p].tags["collapsed_tag"] == "Relation"]


def test_what_results_hold_is_not_computed_again(colors):
    folder = vk.sample("winoground_mini")
    result = evaluate_winoground(colors, folder)
    asked = len(colors.images), len(colors.texts)
    probe = WinogroundProbe({"sees": colors}, folder, {"sees": result})
    probe.by_margin.value = True
    probe.score_all.click()
    probe.work.wait()
    assert (len(colors.images), len(colors.texts)) == asked
    assert probe.cases[probe.places[0]].id == result.worst(1)[0].id
    probe.only_failures.value = True
    assert len(probe.places) == sum(case.group_margin <= 0 for case in result.cases)
    assert round(100 * (1 - len(probe.places) / result.n), 6) == round(result.group.percent, 6)


def test_scoring_can_be_cancelled_and_keeps_what_is_done(colors):
    folder = vk.sample("winoground_mini")
    probe = WinogroundProbe({"sees": colors}, folder)
    slow = colors.encode_image

    def canceling(images, batch_size=64):
        probe.work.cancel.click()
        return slow(images)

    colors.encode_image = canceling
    probe.score_all.click()
    probe.work.wait()
    assert "cancelled after 1 of" in probe.work.said.value
    assert 0 < len(probe.grids["sees"]) < len(probe.cases) and probe.only_failures.disabled


def test_an_uploaded_photograph_takes_a_pictures_place_until_the_next_case(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    put(probe.upload_0, ("wall.png", png("white")))
    assert np.allclose(
        shown(probe.view.value)[0], expected([plain("white"), cases[0].images[1]], cases[0].captions), atol=0.006
    )
    assert "your own" in probe.view.value
    put(probe.upload_1, ("notes.txt", b"no picture"))
    assert "notes.txt is no picture" in probe.view.value
    probe.next.click()
    assert np.allclose(shown(probe.view.value)[0], expected(cases[1].images, cases[1].captions), atol=0.006)


def test_what_is_typed_is_shown_as_text(colors, cases):
    probe = WinogroundProbe({"<b>sees</b>": colors}, cases)
    evil = "<img src=x onerror=alert(1)> \"'"
    probe.caption_0.value = evil
    assert "<img src=x" not in probe.view.value and "<b>sees" not in probe.view.value
    assert html.escape("<img src=x onerror=alert(1)>") in probe.view.value
    tags = re.findall(r"<img [^>]*>", probe.view.value)
    assert len(tags) == 2 and all("alt=" in tag for tag in tags)


def test_an_empty_caption_is_said_and_the_next_one_is_scored(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    probe.caption_0.value = "  "
    assert 'role="alert"' in probe.view.value and "empty" in probe.view.value
    probe.caption_0.value = "a red wall"
    assert len(shown(probe.view.value)) == 1


def test_the_plain_function_gives_the_widgets_view(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    grid = expected(cases[0].images, cases[0].captions).T
    assert winoground_view(cases[0].images, cases[0].captions, {"sees": grid}, "1 of 3: Object") == probe.view.value
    assert winoground_view(cases[0].images, cases[0].captions, {"sees": grid})._repr_html_().count("<table>") == 1
    with pytest.raises(ValueError, match="two captions"):
        winoground_view(cases[0].images, ["one"], {"sees": grid})


def test_all_models_have_as_many_decimals_and_a_case_without_scores_is_shown_alone(cases):
    grids = {"near": [[0.90004, 0.90001], [0.2, 0.3]], "far": [[0.9, 0.1], [0.2, 0.8]]}
    view = winoground_view(cases[0].images, cases[0].captions, grids)
    assert {len(value) for value in CELL.findall(view)} == {len("0.90004")}
    alone = winoground_view(cases[0].images, cases[0].captions, {})
    assert alone.count("<img ") == 2 and "<table" not in alone and "similarities" not in alone


def test_words_that_the_lvlm_never_saw_are_marked(lvlm, cases):
    probe = WinogroundProbe({"base": vk.Embedder(lvlm)}, cases[:1])
    probe.caption_0.value = "a zebra on grass"
    assert re.findall(r"<mark[^>]*>(\w+)</mark>", probe.view.value)[0] == "zebra"
    assert "grass" not in re.findall(r"<mark[^>]*>(\w+)</mark>", probe.view.value)


def test_without_scores_cases_are_listed_by_category_alone(cases):
    assert listed_cases(cases) == [0, 1, 2]
    assert listed_cases(cases, None, "Object", only_failures=True, by_margin=True) == [0, 2]
    assert listed_cases(cases, {"1": [[0.1, 0.9], [0.9, 0.1]]}, EVERY, only_failures=True) == [1]
