"""Cases in a real JupyterLab: Winoground's, SugarCrepe's and one's own are leafed through, rewritten and composed."""

import re

import pytest

from .front_end import SLOW
from .widget_page import CLOSE, EVIL, chosen, first_pixel, grids, number, pressed, says, until, uploaded, written


def verdict_of(grid):
    """By Winoground's rule, from numbers [caption][picture]; a tie is wrong."""
    (a, b), (c, d) = grid
    text, image = a > c and d > b, a > b and d > c
    return {"text": text, "image": image, "group": text and image}


def verdict_read(words):
    return {part: mark == "✓" for part, mark in re.findall(r"(text|image|group) ([✓✗])", words)}


def ties(grid):
    (a, b), (c, d) = grid
    return a == c or b == d or a == b or c == d  # as shown: the verdict knows more decimals


def test_the_probe_is_worked_by_the_keyboard_alone(gallery):
    shown = gallery.output("probe")
    shown.get_by_role("button", name="◀ previous").focus()
    met = []
    for _ in range(11):
        met.append(
            gallery.page.evaluate(
                """() => { const at = document.activeElement;
                return (at.labels && at.labels[0] || at.closest('label') || at).innerText.trim(); }"""
            )
        )
        gallery.page.keyboard.press("Tab")
    wanted = ["◀ previous", "next ▶", "category", "judge by", "score all", "caption 1", "picture 1", "caption 2"]
    order = [next(place for place, said in enumerate(met) if said.startswith(name)) for name in wanted]
    assert order == sorted(order), met
    shown.get_by_role("button", name="next ▶").press("Enter")
    says(shown, re.compile("^2 of 12"))
    shown.get_by_role("button", name="◀ previous").press("Enter")
    says(shown, re.compile("^1 of 12"))


def test_the_probes_verdict_is_that_of_the_numbers_beside_it(gallery, keep):
    shown = gallery.output("probe")
    seen = 0
    for place in range(1, 13):
        says(shown, re.compile(f"^{place} of 12"))
        for grid, words in grids(shown).values():
            if not ties(grid):
                assert verdict_read(words) == verdict_of(grid)
                seen += 1
        pressed(shown, "next ▶")
    assert seen > 12
    says(shown, re.compile("^1 of 12"))
    keep(gallery.cell("probe"))


def test_the_probes_scores_follow_what_is_typed(gallery):
    shown = gallery.output("probe")
    before = grids(shown)
    first, second = (shown.get_by_label(f"caption {n}", exact=True).input_value() for n in (1, 2))
    written(shown, "caption 1", second)
    written(shown, "caption 2", first)
    until(shown, "(shown, text) => shown.querySelectorAll('figcaption')[1].innerText.endsWith(text)", first)
    says(shown, "1 of 12: your own")
    for model, (grid, _) in grids(shown).items():
        for row, other in zip(grid, reversed(before[model][0]), strict=True):
            assert row == pytest.approx(other, abs=CLOSE), model
    written(shown, "caption 1", "a zebra on grass")
    shown.locator("mark", has_text="zebra").first.wait_for(timeout=SLOW)
    assert shown.locator("mark", has_text="grass").count() == 0
    written(shown, "caption 1", first)
    written(shown, "caption 2", second)
    says(shown, re.compile("1 of 12: (?!your own)"))
    assert grids(shown) == before


def test_the_probe_shows_only_failures_worst_first_once_all_is_scored(gallery, keep):
    shown = gallery.output("probe")
    only, worst = shown.get_by_label("only failures"), shown.get_by_label("worst first")
    assert only.is_disabled() and worst.is_disabled()
    failures = 0
    for place in range(1, 13):
        says(shown, re.compile(f"^{place} of 12"))
        failures += not verdict_read(grids(shown)["base"][1])["group"]
        pressed(shown, "next ▶")
    assert failures, "the cases of this test are too easy"
    pressed(shown, "score all")
    says(shown, "done")
    chosen(shown, "judge by", "base")
    worst.check(timeout=SLOW)
    only.check()
    margins = []
    for place in range(1, failures + 1):
        says(shown, re.compile(f"^{place} of {failures}"))
        (a, b), (c, d) = grids(shown)["base"][0]
        margins.append(min(a - b, d - c, a - c, d - b))
        pressed(shown, "next ▶")
    assert all(later > earlier - 2 * CLOSE for earlier, later in zip(margins, margins[1:], strict=False))
    keep(gallery.cell("probe"))
    only.uncheck()
    worst.uncheck()
    says(shown, re.compile("^1 of 12"))


def test_a_photograph_put_into_the_probe_takes_the_pictures_place(gallery, picture_file):
    shown = gallery.output("probe")
    uploaded(shown, "picture 1", picture_file)
    says(shown, "your own")
    assert first_pixel(shown.locator("img").first) == pytest.approx([10, 160, 70], abs=3)
    pressed(shown, "next ▶")
    says(shown, re.compile("2 of 12: (?!your own)"))
    assert first_pixel(shown.locator("img").first) != pytest.approx([10, 160, 70], abs=3)
    pressed(shown, "◀ previous")
    says(shown, re.compile("^1 of 12"))


def test_sugarcrepes_cases_are_leafed_through_worst_first_and_rewritten(gallery, keep):
    shown = gallery.output("crepe")
    margins = []
    for place in range(1, 4):
        says(shown, re.compile(f"^{place} of "))
        true, false, margin = map(number, shown.locator("tbody td").all_inner_texts())
        assert margin == pytest.approx(true - false, abs=CLOSE)
        assert ("✓" in shown.locator("tbody td").last.inner_text()) == (margin > 0)
        margins.append(margin)
        pressed(shown, "next ▶")
    assert margins == sorted(margins)
    says(shown, re.compile("^4 of "))
    written(shown, "false", EVIL)
    says(shown, "4 of 420: your own")
    says(shown, re.compile(re.escape("<img src=x")))
    keep(gallery.cell("crepe"))


def test_the_composer_draws_and_writes_what_is_chosen(gallery, keep):
    shown = gallery.output("composer")
    before = shown.locator("img").first.get_attribute("src")
    chosen(shown, "thing 1", "rabbit")
    shown.get_by_label("color", exact=True).first.select_option(label="red")
    says(shown, "a red rabbit to the left of a purple house")
    says(shown, "a purple house to the left of a red rabbit")
    assert shown.locator("img").first.get_attribute("src") != before
    until(shown, "shown => shown.querySelectorAll('td.own').length === 6")  # the scores follow, a model at a time
    assert len(grids(shown)) == 3
    rows = shown.locator("table").last.locator("tbody tr")
    assert rows.count() > 3
    for row in rows.all():
        for cell in row.locator("td.yes, td.no").all_inner_texts():
            assert (number(cell) > 0) == ("✓" in cell) or number(cell) == 0
    keep(gallery.cell("composer"))


def test_the_composer_says_what_does_not_fit_and_the_way_out(gallery, keep):
    shown = gallery.output("composer")
    chosen(shown, "thing 1", "house")
    shown.get_by_role("alert").wait_for(timeout=SLOW)
    assert "choose two different things" in shown.get_by_role("alert").inner_text()
    keep(gallery.cell("composer"))
    chosen(shown, "thing 1", "dog")
    says(shown, "a red dog to the left of a purple house")
