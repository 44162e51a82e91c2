import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vladva_kit import plots
from vladva_kit.cli.report import Failure, worst_failures, write_report
from vladva_kit.evaluation.bootstrap import score
from vladva_kit.evaluation.metrics import winoground
from vladva_kit.evaluation.winoground import WinogroundCase, WinogroundResult

SCRIPT = "<script>alert('dog')</script> & a cat"


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

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


def pictures():
    return Image.new("RGB", (96, 96), "red"), Image.new("RGB", (900, 300), "blue")


def result(*grids):
    """A WinogroundResult of such similarities (2 images, 2 captions), as the evaluation makes it."""
    scores = winoground(np.array(grids))
    cases = tuple(
        WinogroundCase(
            id=str(place),
            captions=(f"case {place}, {SCRIPT}", "another"),
            images=pictures(),
            tags={"collapsed_tag": "Relation"},
            similarities=tuple(map(tuple, grid)),
            text_margin=float(scores.text_margin[place]),
            image_margin=float(scores.image_margin[place]),
        )
        for place, grid in enumerate(grids)
    )
    parts = {name: score(getattr(scores, name), 25.0) for name in ("text", "image", "group")}
    return WinogroundResult(
        **parts, n=len(cases), ties=0, breakdown={"collapsed_tag": {"Relation": parts}}, cases=cases
    )


RIGHT, WRONG, TIED, WORST = (
    ((0.9, 0.1), (0.2, 0.8)),
    ((0.5, 0.6), (0.6, 0.5)),
    ((0.5, 0.5), (0.5, 0.5)),
    ((0.1, 0.9), (0.9, 0.1)),
)


@pytest.fixture
def tuned():
    return result(RIGHT, WRONG, TIED, WORST)


@pytest.fixture
def base():
    return result(WORST, WORST, WORST, RIGHT)


@pytest.fixture
def results(base, tuned):
    return {
        "command": "vladva demo --seed 3",
        "seed": 3,
        "versions": {"torch": "2.13.0", "vladva-kit": "0.1.0"},
        "seconds": {"fine-tuning": 121.44, "evaluation": {"winoground": 7}},
        "models": {
            SCRIPT: {"winoground/seen": base.as_dict()},
            "fine-tuned": {"winoground/seen": tuned.as_dict(), "generation": {"caption_truth": {"percent": 84.0}}},
        },
    }


@pytest.fixture
def page(tmp_path, results, base, tuned):
    failures = worst_failures({SCRIPT: base, "fine-tuned": tuned}, of="fine-tuned")
    figure = plots.training_curve([{"step": step, "loss": 1.0} for step in range(3)])
    path = write_report(tmp_path / "run", results, {f"Training {SCRIPT}": figure}, failures)
    assert path == tmp_path / "run" / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_worst_failures_come_worst_first_with_the_scores_of_all_models(base, tuned):
    failures = worst_failures({"base": base, "fine-tuned": tuned}, of="fine-tuned")
    assert [failure.captions[0][:6] for failure in failures] == ["case 3", "case 1", "case 2"]  # the tie is wrong too
    assert failures[0].scores == {"base": RIGHT, "fine-tuned": WORST}
    assert failures[0].tag == "Relation"
    assert len(worst_failures({"fine-tuned": tuned}, of="fine-tuned", k=1)) == 1


def test_a_model_without_results_or_without_a_case_is_named(base, tuned):
    with pytest.raises(ValueError, match="no results of 'new'; there are those of base"):
        worst_failures({"base": base}, of="new")
    with pytest.raises(ValueError, match="base has no case 3"):
        worst_failures({"base": result(RIGHT), "fine-tuned": tuned}, of="fine-tuned")


def test_captions_and_names_are_escaped(page):
    assert "<script" not in page
    assert SCRIPT in Page(page).text


def test_the_page_loads_nothing(page):
    parsed = Page(page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]+", "", page))
    assert all(image["src"].startswith("data:image/") for image in parsed.all("img"))
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}


def test_every_picture_has_a_text_for_those_who_do_not_see_it(page):
    assert all(image["alt"] for image in Page(page).all("img"))


def test_the_page_shows_the_comparison_the_figures_given_and_two_pictures_a_failure(page):
    sources = [image["src"][:16] for image in Page(page).all("img")]
    assert sources == ["data:image/png;b"] * 2 + ["data:image/jpeg;"] * 2 * 3


def test_the_page_says_what_was_run_and_how_to_repeat_it(page):
    text = Page(page).text
    for said in ("vladva demo --seed 3", "fine-tuning", "121.4 s", "evaluation winoground", "7 s", "2.13.0"):
        assert said in text
    assert "With the versions above and seed 3:" in text


def test_scores_stand_with_interval_guessing_and_number_of_cases(page, tuned):
    text = Page(page).text
    assert f"25.0[{tuned.group.low:.1f}, {tuned.group.high:.1f}]" in text
    assert "guessing 25.0 · n 4" in text
    assert "caption truth" in text and "—" in text


def test_a_failure_shows_captions_as_rows_pictures_as_columns_and_verdicts(tmp_path, results):
    case = Failure(pictures(), ["one", "two"], {"base": [[0.11, 0.22], [0.33, 0.44]]})
    text = Page(write_report(tmp_path, results, {}, [case]).read_text()).text
    assert re.search(r"caption 1\s*0\.11\s*0\.33\s*caption 2\s*0\.22\s*0\.44", text)
    assert re.search(r"text ✗\s*image ✗\s*group ✗", text)


def test_without_failures_figures_seconds_or_command_the_page_says_so(tmp_path):
    text = Page(write_report(tmp_path, {"models": {"base": {}}}, {}, []).read_text()).text
    assert "No failed case to show." in text
    assert "The results name no command." in text
    assert "has no retrieval or Winoground score of base" in text


def test_results_json_is_mentioned_only_where_it_lies_beside(tmp_path, results):
    assert "results.json" not in write_report(tmp_path, results, {}, []).read_text()
    (tmp_path / "results.json").write_text("{}")
    assert "results.json" in write_report(tmp_path, results, {}, []).read_text()


def test_a_page_that_fails_leaves_the_old_one(tmp_path, results):
    path = write_report(tmp_path, results, {}, [])
    before = path.read_bytes()
    broken = Failure([tmp_path / "missing.png"] * 2, ["a", "b"], {"base": RIGHT})
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path, results, {}, [broken])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_same_run_gives_the_same_bytes(tmp_path, results):
    one, two = (write_report(tmp_path / name, results, {}, []).read_bytes() for name in ("one", "two"))
    assert one == two
