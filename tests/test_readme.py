"""What the README shows is there, is small enough to load, and is put into words."""

import re
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = re.findall(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)", (ROOT / "README.md").read_text())
MOST_BYTES = 300_000


def test_three_screenshots_and_more_are_shown():
    assert sum(path.startswith("docs/images/") for _, path in PICTURES) >= 3


def test_each_picture_is_a_picture_with_words_for_those_who_cannot_see_it():
    for words, path in PICTURES:
        assert len(words.split()) > 4, path
        with Image.open(ROOT / path) as picture:
            picture.load()
            assert picture.width > 400, path


def test_each_screenshot_is_light_and_none_lies_unused():
    shown = {path for _, path in PICTURES if path.startswith("docs/images/")}
    assert shown == {f"docs/images/{path.name}" for path in (ROOT / "docs" / "images").glob("*.png")}
    assert all((ROOT / path).stat().st_size <= MOST_BYTES for path in shown)
