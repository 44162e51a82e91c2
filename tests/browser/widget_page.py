"""Operate a widget on a page by the labels of its controls, and read what it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .front_end import SLOW

EVIL = "<img src=x onerror=\"document.title='it ran'\">"  # must be shown as text and not run
ROUNDING = 0.011  # numbers are shown with two decimals
NUMBER = re.compile(r"[-−+]?\d+\.\d+")


def number(text: str) -> float:
    """Return the first decimal number in a text: `number("−0.25 ✗") == -0.25`."""
    return float(NUMBER.search(text).group().replace("−", "-"))


def fill(widget: Any, label: str, text: str) -> None:
    """Replace the text in a box and press Enter."""
    box = widget.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Enter")


def select(widget: Any, label: str, option: str | int) -> None:
    """Select an entry of a list by its text or its index."""
    choice = {"index": option} if isinstance(option, int) else {"label": option}
    widget.get_by_label(label, exact=True).select_option(**choice)


def slide(widget: Any, label: str, value: int) -> None:
    """Set a slider by typing into its readout."""
    slider = widget.locator(".widget-slider").filter(has=widget.page.get_by_text(label, exact=True))
    slider.locator(".widget-readout").click()
    slider.locator(".widget-readout").fill(str(value))
    slider.locator(".widget-readout").press("Enter")


def press(widget: Any, name: str) -> None:
    """Press a button as soon as it is enabled."""
    widget.get_by_role("button", name=name, exact=True).click(timeout=SLOW)


def upload(widget: Any, name: str, path: Path) -> None:
    """Upload a file with the button whose text starts with `name`."""
    with widget.page.expect_file_chooser() as chooser:
        widget.locator(".widget-upload", has_text=name).click()
    chooser.value.set_files(path)


def wait_for_text(widget: Any, text: str | re.Pattern) -> None:
    """Wait until a text is visible in the widget."""
    widget.get_by_text(text).first.wait_for(timeout=SLOW)


def wait_until(widget: Any, condition: str, value: Any = None) -> None:
    """Wait until a JavaScript condition on the widget's element holds: `wait_until(widget, "widget => …")`."""
    element = widget.element_handle()
    script = f"([widget, value]) => ({condition})(widget, value)"
    widget.page.wait_for_function(script, arg=[element, value], timeout=SLOW)


def read_grids(widget: Any) -> dict[str, tuple[list[list[float]], str]]:
    """Read the tables of a Winoground case by model: numbers [caption][image], and the verdict."""
    grids = {}
    for table in widget.locator("table:has(td.own)").all():
        model, verdict = table.locator("caption").inner_text().split("\n", 1)
        rows = table.locator("tbody tr").all()
        grids[model] = ([[number(text) for text in row.locator("td").all_inner_texts()] for row in rows], verdict)
    return grids


def first_pixel(image: Any) -> list[int]:
    """Return red, green and blue of an image's upper left corner, as shown on the page."""
    return image.evaluate(
        """image => { const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 1;
        canvas.getContext('2d').drawImage(image, 0, 0);
        return [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data].slice(0, 3); }"""
    )
