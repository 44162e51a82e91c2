"""SugarCrepe's probe: what it shows is what was scored, and only what is new is scored."""

import html
import re

import numpy as np
import pytest

import vladva_kit as vk
from vladva_kit.widgets import SugarCrepeProbe, sugarcrepe_view

from .conftest import image_vector, plain, png, put, sugarcrepe_result, text_vector

ROW = re.compile(
    r'<th scope="row">(\w+)</th><td>([\d.]+)</td><td>([\d.]+)</td><td class="(yes|no)">([+−][\d.]+) [✓✗]</td>'
)


@pytest.fixture
def results(colors, confused):
    return {"sees": sugarcrepe_result(colors), "confused": sugarcrepe_result(confused)}


@pytest.fixture
def probe(colors, confused, results):
    probe = SugarCrepeProbe({"sees": colors, "confused": confused}, results)
    colors.images.clear()
    colors.texts.clear()
    return probe


def shown(probe):
    return {name: (float(true), float(false), right) for name, true, false, right, _ in ROW.findall(probe.view.value)}


def test_it_begins_with_the_worst_case_of_the_last_model_and_asks_no_model(probe, results, colors):
    worst = min(results["confused"].cases, key=lambda case: case.margin)
    assert (probe.true.value, probe.false.value) == (worst.caption, worst.negative_caption)
    true, false, right = shown(probe)["confused"]
    assert (true, false) == pytest.approx((worst.positive, worst.negative), abs=0.006) and right == "no"
    assert shown(probe)["sees"][2] == "yes" and colors.images == colors.texts == []


def test_filters_go_by_the_judge(probe, results):
    probe.category.value = "swap_att"
    expected = [case for case in results["confused"].cases if case.category == "swap_att"]
    assert probe.places == [("swap_att", case.key) for case in sorted(expected, key=lambda case: case.margin)]
    probe.by_margin.value = False
    assert probe.places == [("swap_att", case.key) for case in expected]
    probe.only_failures.value, probe.judge.value = True, "sees"
    assert probe.places == [] and "no case is left" in probe.view.value
    probe.judge.value = "confused"
    assert probe.places == [("swap_att", case.key) for case in expected if case.margin <= 0]


def test_scores_follow_a_rewritten_caption_and_an_uploaded_picture(probe, colors):
    probe.false.value = "a blue and green wall"
    picture = probe.cases[probe.places[0]].image
    expected = [image_vector(picture) @ text_vector(text) for text in (probe.true.value, "a blue and green wall")]
    assert shown(probe)["sees"][:2] == pytest.approx(expected, abs=0.006)
    assert (
        sorted(colors.texts) == sorted([probe.true.value, "a blue and green wall"]) and "your own" in probe.view.value
    )
    put(probe.upload, ("wall.png", png("white")))
    expected = [image_vector(plain("white")) @ text_vector(text) for text in (probe.true.value, probe.false.value)]
    assert shown(probe)["sees"][:2] == pytest.approx(expected, abs=0.006)
    probe.next.click()
    assert "2 of 4" in probe.view.value and "your own" not in probe.view.value and not probe.upload.value


def test_next_and_previous_go_round(probe):
    first = probe.true.value
    for _ in range(4):
        probe.next.click()
    assert probe.true.value == first
    probe.previous.click()
    assert "4 of 4" in probe.view.value


def test_the_plain_function_gives_the_widgets_view_and_a_tie_is_wrong(probe):
    case = probe.cases[probe.places[0]]
    scores = {
        name: (found[probe.places[0]].positive, found[probe.places[0]].negative) for name, found in probe.scored.items()
    }
    texts = case.caption, case.negative_caption
    assert sugarcrepe_view(case.image, texts, scores, f"1 of 4: {case.category}") == probe.view.value
    assert '<td class="no">+0.000 ✗</td>' in sugarcrepe_view(case.image, texts, {"tied": (0.5, 0.5)})


def test_the_margin_is_that_of_the_numbers_beside_it_and_all_have_as_many_decimals():
    view = sugarcrepe_view(plain("red"), ["a", "b"], {"near": (0.75461, 0.76824), "far": (0.9, 0.1)})
    (true, false, margin), far = (row[1:3] + row[4:] for row in ROW.findall(view))
    assert (true, false, margin) == ("0.755", "0.768", "−0.013") and far == ("0.900", "0.100", "+0.800")


def test_what_is_typed_is_shown_as_text(probe):
    evil = "<img src=x onerror=alert(1)>"
    probe.true.value = evil
    assert evil not in probe.view.value and probe.view.value.count(html.escape(evil)) == 2  # caption, and alt text
    assert len(re.findall(r"<img [^>]*>", probe.view.value)) == 1


def test_words_that_the_lvlm_never_saw_are_marked(lvlm, results):
    probe = SugarCrepeProbe({"sees": vk.Embedder(lvlm)}, {"sees": results["sees"]})
    probe.true.value = "a zebra on grass"
    assert re.findall(r"<mark[^>]*>(\w+)</mark>", probe.view.value)[0] == "zebra"


def test_results_on_other_cases_or_none_are_refused(colors, results):
    fewer = sugarcrepe_result(colors)
    object.__setattr__(fewer, "cases", fewer.cases[1:])
    for given in ({}, {**results, "fewer": fewer}):
        with pytest.raises(ValueError, match="on the same cases"):
            SugarCrepeProbe({"sees": colors}, given)
    with pytest.raises(ValueError, match="1 captions"):
        sugarcrepe_view(plain("red"), ["one"], {"m": (np.float64(0.1), 0.2)})
