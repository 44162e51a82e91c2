"""The SugarCrepe probe shows the known scores and computes only new ones."""

import dataclasses
import html
import re

import pytest
from color_encoder import image_vector, plain, png, put, sugarcrepe_result, text_vector

from vladva_kit.widgets import SugarCrepeProbe, sugarcrepe_view
from vladva_kit.widgets.case_browser import category_label

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


def listed(probe):
    """The captions of the cases that the probe steps through."""
    return [tuple(probe.cases[index].captions) for index in probe.listed]


def captions_of(cases):
    return [(case.caption, case.negative_caption) for case in cases]


def test_the_first_case_is_the_worst_of_the_last_model_and_needs_no_encoding(probe, results, colors):
    worst = min(results["confused"].cases, key=lambda case: case.margin)
    assert [box.value for box in probe.captions] == [worst.caption, worst.negative_caption]
    true, false, right = shown(probe)["confused"]
    assert (true, false) == pytest.approx((worst.positive, worst.negative), abs=0.006) and right == "no"
    assert shown(probe)["sees"][2] == "yes" and colors.images == colors.texts == []


def test_filters_use_the_scores_of_the_model_to_rank_by(probe, results):
    probe.category.value = "swap_att"
    assert f"1 of {len(probe.listed)}: swap attribute" in probe.view.value
    expected = [case for case in results["confused"].cases if case.category == "swap_att"]
    assert listed(probe) == captions_of(sorted(expected, key=lambda case: case.margin))
    probe.worst_first.value = False
    assert listed(probe) == captions_of(expected)
    probe.only_failures.value, probe.rank_by.value = True, "sees"
    assert probe.listed == [] and "no case left" in probe.view.value
    probe.rank_by.value = "confused"
    assert listed(probe) == captions_of(case for case in expected if case.margin <= 0)


def test_scores_follow_an_edited_caption_and_an_uploaded_image(probe, colors):
    true, false = probe.captions
    false.value = "a blue and green wall"
    (image,) = probe.cases[probe.listed[0]].images
    expected = [image_vector(image) @ text_vector(box.value) for box in (true, false)]
    assert shown(probe)["sees"][:2] == pytest.approx(expected, abs=0.006)
    assert sorted(colors.texts) == sorted([true.value, false.value]) and "edited" in probe.view.value
    put(probe.uploads[0], ("wall.png", png("white")))
    expected = [image_vector(plain("white")) @ text_vector(box.value) for box in (true, false)]
    assert shown(probe)["sees"][:2] == pytest.approx(expected, abs=0.006)
    probe.next.click()
    assert "2 of 4" in probe.view.value and "edited" not in probe.view.value and not probe.uploads[0].value


def test_next_and_previous_wrap_around(probe):
    first = probe.captions[0].value
    for _ in range(4):
        probe.next.click()
    assert probe.captions[0].value == first
    probe.previous.click()
    assert "4 of 4" in probe.view.value


def test_the_plain_function_gives_the_widgets_view(probe, results):
    case = min(results["confused"].cases, key=lambda case: case.margin)
    scores = {}
    for name, result in results.items():
        (same,) = (one for one in result.cases if one.id == case.id)
        scores[name] = same.positive, same.negative
    texts = case.caption, case.negative_caption
    assert sugarcrepe_view(case.image, texts, scores, f"1 of 4: {category_label(case.category)}") == probe.view.value
    alone = sugarcrepe_view(case.image, texts, {})
    assert alone.count("<img ") == 1 and "<table" not in alone
    with pytest.raises(ValueError, match="1 captions"):
        sugarcrepe_view(plain("red"), ["one"], {"m": (0.1, 0.2)})


def test_a_tie_is_wrong_and_the_margin_is_the_difference_of_the_numbers_shown():
    scores = {"tied": (0.5, 0.5), "near": (0.7546, 0.7582), "far": (0.9, 0.1)}
    rows = {name: rest for name, *rest in ROW.findall(sugarcrepe_view(plain("red"), ["a", "b"], scores))}
    assert rows["tied"] == ["0.50", "0.50", "no", "+0.00"]
    assert rows["near"] == ["0.75", "0.76", "no", "−0.01"]
    assert rows["far"] == ["0.90", "0.10", "yes", "+0.80"]


def test_typed_text_is_escaped(probe):
    evil = "<img src=x onerror=alert(1)>"
    probe.captions[0].value = evil
    assert evil not in probe.view.value and probe.view.value.count(html.escape(evil)) == 2  # caption and alt text
    assert len(re.findall(r"<img [^>]*>", probe.view.value)) == 1


def test_categories_are_spelled_out(probe):
    assert dict(probe.category.options) == {
        "every category": "every category",
        "add object": "add_obj",
        "swap attribute": "swap_att",
    }
    assert category_label("replace_rel") == "replace relation" and category_label("Both") == "Both"


def test_missing_results_or_results_on_different_cases_are_an_error(colors, results):
    complete = sugarcrepe_result(colors)
    fewer = dataclasses.replace(complete, cases=complete.cases[1:])
    for wrong in ({}, {**results, "fewer": fewer}):
        with pytest.raises(ValueError, match="on the same cases"):
            SugarCrepeProbe({"sees": colors}, wrong)
