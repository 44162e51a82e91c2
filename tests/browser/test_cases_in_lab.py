"""A composed case in JupyterLab: choose what it shows, and see what to change in an invalid one."""

from .front_end import SLOW
from .widget_page import number, read_grids, select, wait_for_text, wait_until


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
