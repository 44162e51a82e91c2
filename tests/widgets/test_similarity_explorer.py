"""The explorer: ranks, orders and colors are those of a plain count over the matrix."""

import base64
import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from vladva_kit.widgets import SimilarityExplorer, similarity_view
from vladva_kit.widgets.similarity_explorer import cell_of, similarity_csv, sorted_places

from .conftest import plain

BEFORE = np.array([[0.9, 0.2, 0.55], [0.8, 0.7, 0.1], [0.4, 0.66, 0.5]])
AFTER = np.array([[0.5, 0.2, 0.3], [0.1, 0.7, 0.1], [0.4, 0.6, 0.65]])
CAPTIONS = ["a red wall", "a green wall", "a blue wall"]


@pytest.fixture
def explorer():
    walls = [plain(color) for color in ("red", "green", "blue")]
    return SimilarityExplorer({"before": BEFORE, "after": AFTER}, walls, CAPTIONS)


def shades(view):
    """The matrix's pixels, captions as rows."""
    (source,) = re.findall(r'<image href="data:image/png;base64,([^"]+)"', view)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("L"), dtype=float)


def table(view):
    return dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', view))


def test_a_cell_shows_its_score_in_each_model_and_its_ranks(explorer):
    explorer.picture.value, explorer.caption.value = 2, 1
    said = table(explorer.view.value)
    assert (said["before"], said["after"]) == ("0.8000", "0.1000")
    assert said["picture’s rank for the caption"] == "2 of 3"  # 0.9 is higher
    assert said["caption’s rank for the picture"] == "1 of 3"
    assert "do not belong together" in explorer.view.value and "before: 2 of 3 captions" in explorer.view.value
    explorer.model.value = "after"
    assert table(explorer.view.value)["picture’s rank for the caption"] == "3 of 3"
    assert "after: 3 of 3 captions find their picture" in explorer.view.value


def test_an_equal_score_counts_as_a_better_one():
    tied = cell_of([[0.5, 0.5, 0.1], [0.2, 0.5, 0.9]], 0, 0)
    assert (tied.caption_rank, tied.picture_rank) == (2, 1)


def test_darker_is_more_similar_and_sorting_moves_the_pixels(explorer):
    dark = shades(explorer.view.value)
    assert (np.argsort(dark.ravel()) == np.argsort(-BEFORE.T.ravel())).all()
    explorer.sort.value = "most confused first"
    margins = [BEFORE[i, i] - max(np.delete(BEFORE[i], i).max(), np.delete(BEFORE[:, i], i).max()) for i in range(3)]
    order = sorted(range(3), key=margins.__getitem__)
    assert sorted_places(BEFORE, "most confused first")[0].tolist() == order != [0, 1, 2]
    assert (shades(explorer.view.value) == dark[np.ix_(order, order)]).all()
    labels = re.findall(r"<title>(a \w+ wall)</title><text", explorer.view.value)
    assert labels == [CAPTIONS[place] for place in order]


def test_a_matrix_that_is_not_square_says_nothing_of_belonging(explorer):
    wide = SimilarityExplorer({"model": BEFORE[:2]}, explorer.pictures[:2], CAPTIONS)
    assert "belong together" not in wide.view.value and "most confused first" not in wide.sort.options
    with pytest.raises(ValueError, match="which belong together is not known"):
        sorted_places(BEFORE[:2], "most confused first")
    assert [order.tolist() for order in sorted_places(BEFORE[:2], "highest score first")] == [[0, 1], [0, 1, 2]]


def test_the_export_holds_every_number_and_caption(explorer, tmp_path):
    explorer.model.value, explorer.file.value = "after", str(tmp_path / "found.csv")
    explorer.export_button.click()
    header, *rows = csv.reader((tmp_path / "found.csv").read_text().splitlines())
    assert header == ["picture", *CAPTIONS]
    assert np.array_equal(np.array(rows, dtype=float)[:, 1:], AFTER)
    explorer.file.value = str(tmp_path / "found.csv" / "below.csv")
    explorer.export_button.click()
    assert "not written" in explorer.said.value
    assert next(csv.reader(io.StringIO(similarity_csv([[1.0]], ['say "a, b"']).decode()))) == ["picture", 'say "a, b"']


def test_a_caption_is_shown_as_text_and_the_plain_function_gives_the_view(explorer):
    evil = [*CAPTIONS[:2], "<img src=x onerror=alert(1)>"]
    view = similarity_view({"<i>m": BEFORE}, explorer.pictures, evil, chosen=(2, 2))
    assert "<img src=x" not in view and "<i>" not in view and "&lt;img src=x onerror" in view
    same = similarity_view({"before": BEFORE, "after": AFTER}, explorer.pictures, CAPTIONS, "before")
    assert same == explorer.view.value
    with pytest.raises(ValueError, match="no scores of 'later'"):
        similarity_view({"before": BEFORE}, explorer.pictures, CAPTIONS, "later")


def test_a_long_caption_takes_a_second_line_and_stands_whole_under_the_hand(explorer):
    long = "on stone, a big guitar to the right of three small yellow spiders"
    view = similarity_view({"m": BEFORE}, explorer.pictures, [*CAPTIONS[:2], long])
    (label,) = re.findall(rf"<title>{long}</title>(.*?)</g>", view)
    lines = re.findall(r'y="([\d.]+)">(.*?)</text>', label)
    assert " ".join(text for _, text in lines) == long and len(lines) > 1
    assert float(lines[1][0]) - float(lines[0][0]) >= 11  # a line's height: none lies on another
    many = similarity_view({"m": np.eye(24)}, [plain("red")] * 24, [f"{long} {n}" for n in range(24)])
    cut = re.findall(rf"<title>{long} \d+</title><text[^>]*>(.*?)</text></g>", many)
    assert len(cut) == 24 and all(text.endswith("…") for text in cut)  # a row has room for one line


def test_a_large_matrix_is_one_small_picture():
    scores = np.random.default_rng(0).random((200, 150))
    view = similarity_view({"m": scores}, [plain("red")] * 200, ["a wall"] * 150, chosen=(199, 149))
    assert shades(view).shape == (150, 200) and len(view) < 150_000
