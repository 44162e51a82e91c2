"""The HTML report: scores, figures and failures are on the page, text is escaped, nothing is loaded."""

import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vladva_kit import plots
from vladva_kit.cli.report import write_report
from vladva_kit.evaluation.bootstrap import score
from vladva_kit.evaluation.winoground import WinogroundCase, WinogroundResult, winoground_margins

SCRIPT = "<script>alert('dog')</script> & a cat"
RIGHT, WRONG, TIED, WORST = (
    ((0.9, 0.1), (0.2, 0.8)),
    ((0.5, 0.6), (0.6, 0.5)),
    ((0.5, 0.5), (0.5, 0.5)),
    ((0.1, 0.9), (0.9, 0.1)),
)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def result(*grids, images=None):
    """A WinogroundResult with these similarities, each (2 images, 2 captions)."""
    margins = winoground_margins(np.array(grids))
    cases = tuple(
        WinogroundCase(
            id=str(index),
            captions=(f"case {index}, {SCRIPT}", "another"),
            images=images or (Image.new("RGB", (96, 96), "red"), Image.new("RGB", (900, 300), "blue")),
            tags={"collapsed_tag": "Relation"},
            similarities=tuple(map(tuple, grid)),
            text_margin=float(margins["text"].margin[index]),
            image_margin=float(margins["image"].margin[index]),
        )
        for index, grid in enumerate(grids)
    )
    parts = {name: score(part.correct, 25.0) for name, part in margins.items()}
    return WinogroundResult(
        **parts, n=len(cases), ties=0, breakdown={"collapsed_tag": {"Relation": parts}}, cases=cases
    )


@pytest.fixture
def tuned():
    return result(RIGHT, WRONG, TIED, WORST)


@pytest.fixture
def winogrounds(tuned):
    return {SCRIPT: result(WORST, WORST, WORST, RIGHT), "fine-tuned": tuned}


@pytest.fixture
def results(winogrounds):
    models = {model: {"winoground/seen": one.as_dict()} for model, one in winogrounds.items()}
    models["fine-tuned"]["generation"] = {"caption_truth": {"percent": 84.0}}
    return {
        "command": "vladva demo --seed 3",
        "seed": 3,
        "versions": {"torch": "2.13.0", "vladva-kit": "0.1.0"},
        "seconds": {"fine-tuning": 121.44},
        "models": models,
    }


@pytest.fixture
def page(tmp_path, results, winogrounds):
    figure = plots.training_curve([{"step": step, "loss": 1.0} for step in range(3)])
    path = write_report(tmp_path / "run", results, {f"Training {SCRIPT}": figure}, winogrounds)
    assert path == tmp_path / "run" / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_worst_failures_come_first_with_the_scores_of_all_models(page):
    failures = page[page.index("Worst failures") :]
    assert re.findall(r"Image 1: (case \d)", failures) == ["case 3", "case 1", "case 2"]  # a tie counts as wrong
    text = Page(failures).text
    worst = text[text.index("1. Relation") : text.index("2. Relation")]
    grids = re.findall(r"caption 1\s*(\S+?)\s+caption 2\s*(\S+?)\s+text (.) ?image (.) ?group (.)", worst)
    assert grids == [("0.900.20", "0.100.80", *"✓✓✓"), ("0.100.90", "0.900.10", *"✗✗✗")]


def test_at_most_five_failures_are_shown(tmp_path, results):
    many = {"fine-tuned": result(*[WORST] * 6)}
    page = write_report(tmp_path, results, {}, many).read_text()
    assert page.count("<article>") == 5


def test_a_report_without_failures(tmp_path, results):
    page = write_report(tmp_path, results, {}, {"fine-tuned": result(RIGHT, RIGHT)}).read_text()
    assert "There are no failed cases." in page and "<article>" not in page


def test_captions_are_rows_and_images_are_columns(tmp_path, results):
    grid = ((0.11, 0.22), (0.33, 0.44))
    text = Page(write_report(tmp_path, results, {}, {"base": result(grid)}).read_text()).text
    assert re.search(r"caption 1\s*0\.110\.33\s*caption 2\s*0\.220\.44", text)
    assert re.search(r"text ✗\s*image ✗\s*group ✗", text)


def test_captions_and_names_are_escaped(page):
    assert "<script" not in page
    assert SCRIPT in Page(page).text


def test_the_page_loads_nothing(page):
    parsed = Page(page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]+", "", page))
    assert all(image["src"].startswith("data:image/") for image in parsed.all("img"))
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}


def test_every_image_has_alternative_text(page):
    assert all(image["alt"] for image in Page(page).all("img"))


def test_the_page_shows_the_comparison_the_figures_and_two_images_per_failure(page):
    sources = [image["src"][:16] for image in Page(page).all("img")]
    assert sources == ["data:image/png;b"] * 2 + ["data:image/jpeg;"] * 2 * 3


def test_the_page_shows_the_run_and_how_to_reproduce_it(page):
    text = Page(page).text
    for part in ("vladva demo --seed 3", "fine-tuning", "121.4 s", "2.13.0", "With the versions above and seed 3:"):
        assert part in text


def test_scores_are_shown_with_interval_chance_and_number_of_cases(page, tuned):
    text = Page(page).text
    assert f"25.0[{tuned.group.low:.1f}, {tuned.group.high:.1f}]" in text
    assert "chance 25.0 · n 4" in text
    assert "caption truth" in text and "—" in text


def test_the_page_says_what_emoji_llava_was_pretrained_on(tmp_path, page, results, winogrounds):
    assert "pretrained" not in Page(page).text
    named = results | {"identity": {"base": {"name": "emoji-llava"}, "clip": {"name": "emoji-clip"}}}
    text = Page(write_report(tmp_path, named, {}, winogrounds).read_text()).text
    assert "emoji-llava was pretrained on the two embedding prompts with a noun as the answer" in text


def test_a_failed_write_keeps_the_old_page(tmp_path, results, winogrounds):
    path = write_report(tmp_path, results, {}, winogrounds)
    before = path.read_bytes()
    broken = result(WORST, images=[tmp_path / "missing.png"] * 2)
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path, results, {}, {"base": broken})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_same_run_gives_the_same_bytes(tmp_path, results, winogrounds):
    first, second = (write_report(tmp_path / name, results, {}, winogrounds).read_bytes() for name in ("a", "b"))
    assert first == second
