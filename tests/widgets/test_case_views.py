"""Static views of cases show the similarities, and the verdicts of the benchmarks' rules."""

import html
import re

import numpy as np
import pytest
from color_encoder import image_vector, plain, text_vector

from vladva_kit.widgets import sugarcrepe_view, winoground_view
from vladva_kit.widgets.case_views import case_view, category_label, is_right

CELL = re.compile(r"<td(?: class=\"own\")?>(-?[\d.]+)</td>")
ROW = re.compile(
    r'<th scope="row">(\w+)</th><td>([\d.]+)</td><td>([\d.]+)</td><td class="(yes|no)">([+−][\d.]+) [✓✗]</td>'
)
EVIL = "<img src=x onerror=alert(1)>"


def grid(images, captions):
    """Cosines [image][caption]."""
    return np.array([[image_vector(image) @ text_vector(text) for text in captions] for image in images])


def shown(view):
    """The numbers of each model's table, as (caption, image)."""
    tables = re.findall(r"<table>.*?</table>", view, re.S)
    return [np.array([float(value) for value in CELL.findall(table)]).reshape(2, 2) for table in tables]


def test_the_scores_and_the_verdict_are_those_of_the_similarities(cases):
    case = cases[0]
    scores = grid(case.images, case.captions)
    view = winoground_view(case.images, case.captions, {"sees": scores, "confused": scores[::-1]}, "1 of 3")
    assert np.allclose(shown(view)[0], scores.T, atol=0.006) and np.allclose(shown(view)[1], scores[::-1].T, atol=0.006)
    assert re.search(r"sees<br><span class=\"yes\">text ✓</span> <span class=\"yes\">image ✓</span>", view)
    assert re.search(r"confused<br>.*✗", view) and "1 of 3" in view
    assert view._repr_html_().count("<table>") == 2
    with pytest.raises(ValueError, match="two captions"):
        winoground_view(case.images, ["one"], {"sees": scores})


def test_scores_have_two_decimals_and_a_case_without_scores_has_no_table(cases):
    grids = {"near": [[0.90004, 0.90001], [0.2, 0.3]], "far": [[0.9, 0.1], [0.2, 0.8]]}
    view = winoground_view(cases[0].images, cases[0].captions, grids)
    assert {len(value) for value in CELL.findall(view)} == {len("0.90")}
    assert view.count("text ✓") == 2  # the verdict uses the unrounded scores
    alone = winoground_view(cases[0].images, cases[0].captions, {})
    assert alone.count("<img ") == 2 and "<table" not in alone and "similarities" not in alone


def test_a_tie_is_wrong_and_the_margin_is_the_difference_of_the_numbers_shown():
    scores = {"tied": (0.5, 0.5), "near": (0.7546, 0.7582), "far": (0.9, 0.1)}
    rows = {name: rest for name, *rest in ROW.findall(sugarcrepe_view(plain("red"), ["a", "b"], scores))}
    assert rows["tied"] == ["0.50", "0.50", "no", "+0.00"]
    assert rows["near"] == ["0.75", "0.76", "no", "−0.01"]
    assert rows["far"] == ["0.90", "0.10", "yes", "+0.80"]
    assert [is_right([pair]) for pair in scores.values()] == [False, False, True]


def test_a_sugarcrepe_case_without_scores_has_no_table_and_needs_two_captions():
    alone = sugarcrepe_view(plain("red"), ["a", "b"], {})
    assert alone.count("<img ") == 1 and "<table" not in alone
    with pytest.raises(ValueError, match="1 captions"):
        sugarcrepe_view(plain("red"), ["one"], {"m": (0.1, 0.2)})


@pytest.mark.parametrize("n_images", [1, 2])
def test_texts_are_escaped_and_images_have_a_text_alternative(n_images):
    view = case_view([plain("red")] * n_images, [EVIL, "b"], {"<b>m</b>": [[0.5, 0.4]] * n_images}, EVIL, {"onerror"})
    assert EVIL not in view and "<b>m" not in view
    assert html.escape(EVIL) in view and ">onerror</mark>" in view
    tags = re.findall(r"<img [^>]*>", view)
    assert len(tags) == n_images and all("alt=" in tag for tag in tags)


def test_a_case_is_right_only_if_every_comparison_is(cases):
    assert is_right([[0.9, 0.1], [0.2, 0.8]]) and not is_right([[0.9, 0.1], [0.95, 0.97]])
    assert not is_right([[0.5, 0.5], [0.5, 0.5]])


def test_categories_are_spelled_out():
    assert category_label("replace_rel") == "replace relation" and category_label("Both") == "Both"
    assert category_label("swap_att") == "swap attribute"
