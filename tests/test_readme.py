"""What the README shows is there, is small enough to load, and is put into words."""

import json
import re
import runpy
from pathlib import Path

from PIL import Image

from experiments.paper.page import reproduction_page

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


def test_the_goals_are_those_of_the_benchmarks_pages(tmp_path):
    update, copy = runpy.run_path(str(ROOT / "docs" / "update_readme.py")), tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text())
    update["main"](ROOT / "benchmarks" / "results", copy)
    assert copy.read_text() == (ROOT / "README.md").read_text()
    assert copy.read_text().count("(experiments/benchmarks/results/step.md)") == 3  # goals of the step


def test_the_tables_and_the_page_of_the_study_are_those_of_its_results(tmp_path):
    """Nothing in them is written by hand: made anew from docs/ablation.json they are what is committed."""
    update, copy = runpy.run_path(str(ROOT / "docs" / "update_readme.py")), tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text())
    update["main"](ROOT / "docs" / "ablation.json", copy)
    assert copy.read_text() == (ROOT / "README.md").read_text()
    page = (ROOT / "docs" / "reproduction.md").read_text()
    results = json.loads((ROOT / "docs" / "ablation.json").read_text())
    assert "not measured" not in page
    command = re.search(r"Written by `([^`]+)`", page)[1]
    figures = [path.stem for path in (ROOT / "docs" / "figures").glob("*.png")]
    assert reproduction_page(results, figures, command) == page
