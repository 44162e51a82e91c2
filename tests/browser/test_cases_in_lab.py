"""Winoground and SugarCrepe cases in JupyterLab: step through them, edit them, and compose new ones."""

import re

import pytest

from .front_end import SLOW
from .widget_page import (
    EVIL,
    ROUNDING,
    fill,
    first_pixel,
    number,
    press,
    read_grids,
    select,
    upload,
    wait_for_text,
    wait_until,
)


def verdict_of(grid):
    """Winoground's rule on numbers [caption][image]; a tie is wrong."""
    (a, b), (c, d) = grid
    text, image = a > c and d > b, a > b and d > c
    return {"text": text, "image": image, "group": text and image}


def parse_verdict(text):
    return {part: mark == "✓" for part, mark in re.findall(r"(text|image|group) ([✓✗])", text)}


def decided_parts(grid):
    """Return the parts of the verdict that the rounded numbers decide; the verdict itself uses unrounded ones."""
    (a, b), (c, d) = grid
    parts = {"text"} if a != c and b != d else set()
    parts |= {"image"} if a != b and c != d else set()
    return parts | ({"group"} if len(parts) == 2 else set())


def test_the_probe_works_with_the_keyboard_alone(gallery):
    probe = gallery.output("probe")
    probe.get_by_role("button", name="◀ previous").focus()
    labels = []
    for _ in range(11):
        labels.append(
            gallery.page.evaluate(
                """() => { const at = document.activeElement;
                return (at.labels && at.labels[0] || at.closest('label') || at).innerText.trim(); }"""
            )
        )
        gallery.page.keyboard.press("Tab")
    expected = ["◀ previous", "next ▶", "category", "rank by", "score all", "caption 1", "image 1", "caption 2"]
    order = [next(index for index, label in enumerate(labels) if label.startswith(name)) for name in expected]
    assert order == sorted(order), labels
    probe.get_by_role("button", name="next ▶").press("Enter")
    wait_for_text(probe, re.compile("^2 of 12"))
    probe.get_by_role("button", name="◀ previous").press("Enter")
    wait_for_text(probe, re.compile("^1 of 12"))


def test_the_probes_verdict_agrees_with_its_numbers(gallery, screenshot):
    probe = gallery.output("probe")
    checked = 0
    for position in range(1, 13):
        wait_for_text(probe, re.compile(f"^{position} of 12"))
        for grid, text in read_grids(probe).values():
            shown, expected = parse_verdict(text), verdict_of(grid)
            for part in decided_parts(grid):
                assert shown[part] == expected[part]
                checked += 1
        press(probe, "next ▶")
    assert checked > 36  # of 108
    wait_for_text(probe, re.compile("^1 of 12"))
    screenshot(gallery.cell("probe"))


def test_the_probes_scores_follow_typed_captions(gallery):
    probe = gallery.output("probe")
    before = read_grids(probe)
    first, second = (probe.get_by_label(f"caption {n}", exact=True).input_value() for n in (1, 2))
    fill(probe, "caption 1", second)
    fill(probe, "caption 2", first)
    wait_until(probe, "(probe, text) => probe.querySelectorAll('figcaption')[1].innerText.endsWith(text)", first)
    wait_for_text(probe, "1 of 12: edited")
    for model, (grid, _) in read_grids(probe).items():
        for row, other in zip(grid, reversed(before[model][0]), strict=True):
            assert row == pytest.approx(other, abs=ROUNDING), model
    fill(probe, "caption 1", "a zebra on grass")
    probe.locator("mark", has_text="zebra").first.wait_for(timeout=SLOW)
    assert probe.locator("mark", has_text="grass").count() == 0
    fill(probe, "caption 1", first)
    fill(probe, "caption 2", second)
    wait_for_text(probe, re.compile("1 of 12: (?!edited)"))
    assert read_grids(probe) == before


def test_an_empty_caption_keeps_the_images_and_is_named_below_the_fields(gallery, screenshot):
    probe = gallery.output("probe")
    first = probe.get_by_label("caption 1", exact=True).input_value()
    fill(probe, "caption 1", " ")
    wait_for_text(probe, "the field 'caption 1' is empty")
    assert probe.locator("img").count() == 2
    screenshot(gallery.cell("probe"))
    fill(probe, "caption 1", first)
    wait_until(probe, "probe => !probe.innerText.includes('is empty')")


def test_the_probe_filters_failures_and_sorts_by_margin_after_scoring(gallery, screenshot):
    probe = gallery.output("probe")
    only_failures, worst_first = probe.get_by_label("only failures"), probe.get_by_label("worst first")
    assert only_failures.is_disabled() and worst_first.is_disabled()
    failures = 0
    for position in range(1, 13):
        wait_for_text(probe, re.compile(f"^{position} of 12"))
        failures += not parse_verdict(read_grids(probe)["base"][1])["group"]
        press(probe, "next ▶")
    assert failures, "the cases of this test are too easy"
    select(probe, "rank by", "base")  # all its cases were shown, so they are scored
    worst_first.check(timeout=SLOW)
    only_failures.check()
    margins = []
    for position in range(1, failures + 1):
        wait_for_text(probe, re.compile(f"^{position} of {failures}"))
        (a, b), (c, d) = read_grids(probe)["base"][0]
        margins.append(min(a - b, d - c, a - c, d - b))
        press(probe, "next ▶")
    assert all(later > earlier - 2 * ROUNDING for earlier, later in zip(margins, margins[1:], strict=False))
    screenshot(gallery.cell("probe"))
    only_failures.uncheck()
    worst_first.uncheck()
    wait_for_text(probe, re.compile("^1 of 12"))
    press(probe, "score all")
    wait_for_text(probe, "all cases are scored already")


def test_an_uploaded_image_replaces_an_image_until_the_next_case(gallery, image_file):
    probe = gallery.output("probe")
    upload(probe, "image 1", image_file)
    wait_for_text(probe, "edited")
    assert first_pixel(probe.locator("img").first) == pytest.approx([10, 160, 70], abs=3)
    press(probe, "next ▶")
    wait_for_text(probe, re.compile("2 of 12: (?!edited)"))
    assert first_pixel(probe.locator("img").first) != pytest.approx([10, 160, 70], abs=3)
    press(probe, "◀ previous")
    wait_for_text(probe, re.compile("^1 of 12"))


def test_sugarcrepe_cases_come_worst_first_and_can_be_edited(gallery, screenshot):
    crepe = gallery.output("crepe")
    margins = []
    for position in range(1, 4):
        wait_for_text(crepe, re.compile(f"^{position} of "))
        true, false, margin = map(number, crepe.locator("tbody td").all_inner_texts())
        assert margin == pytest.approx(true - false, abs=1e-6)
        assert ("✓" in crepe.locator("tbody td").last.inner_text()) == (margin > 0)
        margins.append(margin)
        press(crepe, "next ▶")
    assert margins == sorted(margins)
    wait_for_text(crepe, re.compile("^4 of "))
    fill(crepe, "false", EVIL)
    wait_for_text(crepe, "4 of 420: edited")
    wait_for_text(crepe, re.compile(re.escape("<img src=x")))
    screenshot(gallery.cell("crepe"))


def test_the_composer_draws_and_describes_what_is_chosen(gallery, screenshot):
    composer = gallery.output("composer")
    before = composer.locator("img").first.get_attribute("src")
    select(composer, "object 1", "rabbit")
    composer.get_by_label("color", exact=True).first.select_option(label="red")
    wait_for_text(composer, "a red rabbit to the left of a purple house")
    wait_for_text(composer, "a purple house to the left of a red rabbit")
    assert composer.locator("img").first.get_attribute("src") != before
    wait_until(composer, "composer => composer.querySelectorAll('td.own').length === 6")  # the scores come later
    assert len(read_grids(composer)) == 3
    rows = composer.locator("table").last.locator("tbody tr")
    assert rows.count() > 3
    for row in rows.all():
        for cell in row.locator("td.yes, td.no").all_inner_texts():
            assert (number(cell) > 0) == ("✓" in cell) or number(cell) == 0
    screenshot(gallery.cell("composer"))


def test_the_composer_says_what_to_change_in_an_invalid_scene(gallery, screenshot):
    composer = gallery.output("composer")
    select(composer, "object 1", "house")
    composer.get_by_role("alert").wait_for(timeout=SLOW)
    assert "choose two different objects" in composer.get_by_role("alert").inner_text()
    assert composer.locator("img").count() == 2
    screenshot(gallery.cell("composer"))
    select(composer, "object 1", "dog")
    wait_for_text(composer, "a red dog to the left of a purple house")
