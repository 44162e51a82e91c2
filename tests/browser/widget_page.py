"""What a person does with a widget on a page: by the words on its controls, and read off what it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .front_end import SLOW

EVIL = "<img src=x onerror=\"document.title='it ran'\">"  # a caption that must be shown and not be obeyed
CLOSE = 0.011  # numbers are shown with two decimals at least
NUMBER = re.compile(r"[-−+]?\d+\.\d+")


def number(text: str) -> float:
    """The first decimal number of a text, whichever its minus."""
    return float(NUMBER.search(text).group().replace("−", "-"))


def written(shown: Any, label: str, text: str) -> None:
    """Types a text into the box of that name, in place of what is there."""
    box = shown.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Enter")


def chosen(shown: Any, label: str, option: str | int) -> None:
    """Chooses from the list of that name: an entry by its words, or by its place."""
    which = {"index": option} if isinstance(option, int) else {"label": option}
    shown.get_by_label(label, exact=True).select_option(**which)


def slid(shown: Any, label: str, value: int) -> None:
    """Sets the slider of that name by its number, which can be written to."""
    slider = shown.locator(".widget-slider").filter(has=shown.page.get_by_text(label, exact=True))
    slider.locator(".widget-readout").click()
    slider.locator(".widget-readout").fill(str(value))
    slider.locator(".widget-readout").press("Enter")


def pressed(shown: Any, name: str) -> None:
    """Presses the button of that name once it can be pressed."""
    shown.get_by_role("button", name=name, exact=True).click(timeout=SLOW)


def uploaded(shown: Any, name: str, path: Path) -> None:
    """Gives a file by the upload button whose text begins with that name."""
    with shown.page.expect_file_chooser() as choosing:
        shown.locator(".widget-upload", has_text=name).click()
    choosing.value.set_files(path)


def says(shown: Any, text: str | re.Pattern) -> None:
    """Waits until that text can be seen in the widget."""
    shown.get_by_text(text).first.wait_for(timeout=SLOW)


def until(shown: Any, condition: str, value: Any = None) -> None:
    """Waits until a condition of the widget holds, in the page's own language: `until(shown, "shown => …")`."""
    element = shown.element_handle()
    shown.page.wait_for_function(f"([shown, value]) => ({condition})(shown, value)", arg=[element, value], timeout=SLOW)


def grids(shown: Any) -> dict[str, tuple[list[list[float]], str]]:
    """The tables of a Winoground case: by model, numbers [caption][picture] and what is said of them."""
    read = {}
    for table in shown.locator("table:has(td.own)").all():
        model, verdict = table.locator("caption").inner_text().split("\n", 1)
        rows = table.locator("tbody tr").all()
        read[model] = ([[number(text) for text in row.locator("td").all_inner_texts()] for row in rows], verdict)
    return read


def first_pixel(image: Any) -> list[int]:
    """Red, green and blue of a picture's upper left corner, as the page shows it."""
    return image.evaluate(
        """image => { const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 1;
        canvas.getContext('2d').drawImage(image, 0, 0);
        return [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data].slice(0, 3); }"""
    )
