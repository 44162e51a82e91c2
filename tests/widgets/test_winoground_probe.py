"""The Winoground probe shows what an independent computation gives, and computes nothing twice."""

import html
import re

import numpy as np
import pytest
from color_encoder import image_vector, plain, png, put, text_vector

import vladva_kit as vk
from vladva_kit.evaluation import evaluate_winoground
from vladva_kit.widgets import WinogroundProbe, winoground_view

CELL = re.compile(r"<td(?: class=\"own\")?>(-?[\d.]+)</td>")


def shown(view):
    """The numbers of each model's table, as (caption, image)."""
    tables = re.findall(r"<table>.*?</table>", view, re.S)
    return [np.array([float(value) for value in CELL.findall(table)]).reshape(2, 2) for table in tables]


def expected(images, captions):
    return np.array([[image_vector(image) @ text_vector(text) for image in images] for text in captions])


def group_margin(grid):
    (a, b), (c, d) = grid
    return min(a - b, d - c, a - c, d - b)


def test_the_scores_and_the_verdict_are_those_of_the_embeddings(colors, confused, cases):
    probe = WinogroundProbe({"sees": colors, "confused": confused}, cases)
    sees, other = shown(probe.view.value)
    assert np.allclose(sees, expected(cases[0].images, cases[0].captions), atol=0.006)
    assert not np.allclose(sees, other, atol=0.05)
    assert re.search(r"sees<br><span class=\"yes\">text ✓</span> <span class=\"yes\">image ✓</span>", probe.view.value)
    assert re.search(r"confused<br>.*✗", probe.view.value)


def test_only_an_edited_caption_is_encoded(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    images, texts = len(colors.images), len(colors.texts)
    probe.captions[0].value = "a blue and green wall"
    edited = ["a blue and green wall", "a green wall"]
    assert np.allclose(shown(probe.view.value)[0], expected(cases[0].images, edited), atol=0.006)
    assert (len(colors.images), colors.texts[texts:]) == (images, ["a blue and green wall"])
    assert "1 of 3: edited" in probe.view.value
    probe.captions[0].value = cases[0].captions[0]
    assert len(colors.texts) == texts + 1
    assert "1 of 3: Object" in probe.view.value


def test_next_and_previous_wrap_around(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    probe.next.click()
    assert probe.captions[0].value == "a blue wall" and "2 of 3: Relation" in probe.view.value
    probe.previous.click()
    probe.previous.click()
    assert tuple(box.value for box in probe.captions) == cases[2].captions


def test_filters_are_disabled_until_all_cases_are_scored(colors, confused, cases):
    probe = WinogroundProbe({"sees": colors, "confused": confused}, cases)
    assert probe.only_failures.disabled and probe.worst_first.disabled
    probe.category.value = "Object"
    assert probe.listed == [0, 2]
    probe.category.value = "every category"
    probe.score_all.click()
    probe.work.wait()
    assert not probe.only_failures.disabled and probe.work.box.layout.display == "none"
    probe.rank_by.value, probe.only_failures.value = "sees", True
    assert "no case left" in probe.view.value
    probe.rank_by.value, probe.worst_first.value = "confused", True
    margins = [
        group_margin(np.array(confused.encode_image(case.images)) @ np.array(confused.encode_text(case.captions)).T)
        for case in cases
    ]
    assert probe.listed == sorted((i for i in range(3) if margins[i] <= 0), key=lambda i: margins[i])
    assert probe.listed
    probe.category.value = "Relation"
    assert probe.listed == [i for i in range(3) if margins[i] <= 0 and cases[i].tags["collapsed_tag"] == "Relation"]


def test_known_results_are_not_computed_again(colors):
    folder = vk.sample("winoground_mini")
    result = evaluate_winoground(colors, folder)
    encoded = len(colors.images), len(colors.texts)
    probe = WinogroundProbe({"sees": colors}, folder, {"sees": result})
    probe.worst_first.value = True
    probe.score_all.click()
    assert "all cases are scored already" in probe.message.value and probe.work.box.layout.display == "none"
    assert (len(colors.images), len(colors.texts)) == encoded
    worst = result.worst(1)[0]
    assert tuple(box.value for box in probe.captions) == worst.captions
    probe.only_failures.value = True
    assert len(probe.listed) == sum(case.group_margin <= 0 for case in result.cases)
    assert round(100 * (1 - len(probe.listed) / result.n), 6) == round(result.group.percent, 6)


def test_a_model_known_by_its_results_alone_is_shown_until_the_case_is_edited(colors, confused, cases):
    result = evaluate_winoground(confused, vk.sample("winoground_mini"))
    probe = WinogroundProbe({"sees": colors}, list(result.cases[:3]), {"recorded": result})
    assert len(shown(probe.view.value)) == 2 and probe.rank_by.value == "recorded"
    probe.captions[0].value = "a red wall"
    assert len(shown(probe.view.value)) == 1


def test_canceled_scoring_keeps_what_is_encoded(colors):
    folder = vk.sample("winoground_mini")
    probe = WinogroundProbe({"sees": colors}, folder)
    encode = colors.encode_image

    def cancel_and_encode(images, batch_size=64):
        probe.work.cancel.click()
        return encode(images)

    colors.encode_image = cancel_and_encode
    probe.score_all.click()
    probe.work.wait()
    assert "canceled after 1 of" in probe.work.status.value and probe.only_failures.disabled
    colors.encode_image, encoded = encode, len(colors.images)
    probe.score_all.click()
    probe.work.wait()
    assert not probe.only_failures.disabled
    assert encoded > 2 and len(colors.images) == len({image.tobytes() for image in colors.images})  # none encoded twice


def test_an_uploaded_image_replaces_an_image_until_the_next_case(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    put(probe.uploads[0], ("wall.png", png("white")))
    images = [plain("white"), cases[0].images[1]]
    assert np.allclose(shown(probe.view.value)[0], expected(images, cases[0].captions), atol=0.006)
    assert "edited" in probe.view.value
    probe.next.click()
    assert np.allclose(shown(probe.view.value)[0], expected(cases[1].images, cases[1].captions), atol=0.006)


def test_typed_text_is_escaped(colors, cases):
    probe = WinogroundProbe({"<b>sees</b>": colors}, cases)
    probe.captions[0].value = "<img src=x onerror=alert(1)> \"'"
    assert "<img src=x" not in probe.view.value and "<b>sees" not in probe.view.value
    assert html.escape("<img src=x onerror=alert(1)>") in probe.view.value
    tags = re.findall(r"<img [^>]*>", probe.view.value)
    assert len(tags) == 2 and all("alt=" in tag for tag in tags)


def test_a_case_that_cannot_be_scored_is_shown_without_scores(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    probe.captions[0].value = "  "
    assert 'role="alert"' in probe.message.value and probe.view.value.count("<img ") == 2
    assert shown(probe.view.value) == []
    probe.captions[0].value = "a red wall"
    assert probe.message.value == "" and len(shown(probe.view.value)) == 1


def test_the_plain_function_gives_the_widgets_view(colors, cases):
    probe = WinogroundProbe({"sees": colors}, cases)
    grid = expected(cases[0].images, cases[0].captions).T
    view = winoground_view(cases[0].images, cases[0].captions, {"sees": grid}, "1 of 3: Object")
    assert view == probe.view.value and view._repr_html_().count("<table>") == 1
    with pytest.raises(ValueError, match="two captions"):
        winoground_view(cases[0].images, ["one"], {"sees": grid})


def test_scores_have_two_decimals_and_a_case_without_scores_has_no_table(cases):
    grids = {"near": [[0.90004, 0.90001], [0.2, 0.3]], "far": [[0.9, 0.1], [0.2, 0.8]]}
    view = winoground_view(cases[0].images, cases[0].captions, grids)
    assert {len(value) for value in CELL.findall(view)} == {len("0.90")}
    assert view.count("text ✓") == 2  # the verdict uses the unrounded scores
    alone = winoground_view(cases[0].images, cases[0].captions, {})
    assert alone.count("<img ") == 2 and "<table" not in alone and "similarities" not in alone
