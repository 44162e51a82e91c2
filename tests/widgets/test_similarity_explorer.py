"""Ranks, orders and colors of the explorer agree with a direct count over the matrix."""

import base64
import csv
import io
import re

import numpy as np
import pytest
from color_encoder import plain
from PIL import Image

from vladva_kit.widgets import SimilarityExplorer, similarity_view
from vladva_kit.widgets.similarity_explorer import ranks_of, sort_orders

BEFORE = np.array([[0.9, 0.2, 0.55], [0.8, 0.7, 0.1], [0.4, 0.66, 0.5]])
AFTER = np.array([[0.5, 0.2, 0.3], [0.1, 0.7, 0.1], [0.4, 0.6, 0.65]])
CAPTIONS = ["a red wall", "a green wall", "a blue wall"]
WALLS = [plain(color) for color in ("red", "green", "blue")]


@pytest.fixture
def explorer():
    return SimilarityExplorer({"before": BEFORE, "after": AFTER}, WALLS, CAPTIONS)


def shades(view):
    """The gray values of the matrix's pixels, with captions as rows."""
    source = re.search(r'<image href="data:image/png;base64,([^"]+)"', view).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("L"), dtype=float)


def table(view):
    return dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', view))


def test_a_cell_shows_its_score_in_each_model_and_its_ranks(explorer):
    explorer.image.value, explorer.caption.value = 2, 1
    rows = table(explorer.view.value)
    assert (rows["before"], rows["after"]) == ("0.80", "0.10")
    assert rows["image’s rank for the caption"] == "2 of 3"  # 0.9 is higher
    assert rows["caption’s rank for the image"] == "1 of 3"
    assert "They are not a pair." in explorer.view.value and "before: 2 of 3 captions" in explorer.view.value
    explorer.model.value = "after"
    assert table(explorer.view.value)["image’s rank for the caption"] == "3 of 3"
    assert "after: 3 of 3 captions" in explorer.view.value


def test_an_equal_score_counts_as_a_better_one():
    assert ranks_of([[0.5, 0.5, 0.1], [0.2, 0.5, 0.9]], 0, 0) == (1, 2)


def test_darker_is_more_similar_on_the_same_scale_for_all_models(explorer):
    both = [shades(explorer.view.value)]
    explorer.model.value = "after"
    both.append(shades(explorer.view.value))
    gray, scores = np.stack(both).ravel(), np.stack([BEFORE.T, AFTER.T]).ravel()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(gray[order]) <= 0).all() and gray[order[0]] > gray[order[-1]] + 100
    assert all(len({gray[i] for i in np.flatnonzero(scores == score)}) == 1 for score in scores)


def test_sorting_moves_pixels_and_labels(explorer):
    dark = shades(explorer.view.value)
    explorer.sort.value = "most confused first"
    margins = [BEFORE[i, i] - max(np.delete(BEFORE[i], i).max(), np.delete(BEFORE[:, i], i).max()) for i in range(3)]
    order = sorted(range(3), key=margins.__getitem__)
    assert sort_orders(BEFORE, "most confused first")[0].tolist() == order != [0, 1, 2]
    assert (shades(explorer.view.value) == dark[np.ix_(order, order)]).all()
    labels = re.findall(r"<title>(a \w+ wall)</title><text", explorer.view.value)
    assert labels == [CAPTIONS[index] for index in order]


def test_a_matrix_that_is_not_square_has_no_pairs(explorer):
    wide = SimilarityExplorer({"model": BEFORE[:2]}, WALLS[:2], CAPTIONS)
    assert "a pair" not in wide.view.value and "most confused first" not in wide.sort.options
    with pytest.raises(ValueError, match="'most confused first' needs pairs"):
        sort_orders(BEFORE[:2], "most confused first")
    with pytest.raises(ValueError, match="cannot sort by 'name'"):
        sort_orders(BEFORE, "name")
    assert [order.tolist() for order in sort_orders(BEFORE[:2], "highest score first")] == [[0, 1], [0, 1, 2]]


def test_the_export_has_every_number_and_caption(tmp_path):
    captions = ['say "a, b"', *CAPTIONS[1:]]
    explorer = SimilarityExplorer({"before": BEFORE, "after": AFTER}, WALLS, captions)
    explorer.model.value, explorer.file.value = "after", str(tmp_path / "scores.csv")
    explorer.export_button.click()
    header, *rows = csv.reader((tmp_path / "scores.csv").read_text().splitlines())
    assert header == ["image", *captions]
    assert np.array_equal(np.array(rows, dtype=float)[:, 1:], AFTER) and "saved:" in explorer.message.value
    explorer.file.value = str(tmp_path / "scores.csv" / "below.csv")
    explorer.export_button.click()
    assert "not saved" in explorer.message.value


def test_captions_are_escaped_and_the_plain_function_gives_the_view(explorer):
    evil = [*CAPTIONS[:2], "<img src=x onerror=alert(1)>"]
    view = similarity_view({"<i>m": BEFORE}, WALLS, evil, selected=(2, 2))
    assert "<img src=x" not in view and "<i>" not in view and "&lt;img src=x onerror" in view
    same = similarity_view({"before": BEFORE, "after": AFTER}, WALLS, CAPTIONS, "before")
    assert same == explorer.view.value
    with pytest.raises(ValueError, match="no scores of 'later'"):
        similarity_view({"before": BEFORE}, WALLS, CAPTIONS, "later")
    with pytest.raises(ValueError, match="image 3 and caption 0 are outside"):
        similarity_view({"before": BEFORE}, WALLS, CAPTIONS, selected=(3, 0))


def test_a_long_caption_is_wrapped_and_its_title_has_the_full_text():
    long = "on stone, a big guitar to the right of three small yellow spiders"
    view = similarity_view({"m": BEFORE}, WALLS, [*CAPTIONS[:2], long])
    (label,) = re.findall(rf"<title>{long}</title>(.*?)</g>", view)
    lines = re.findall(r'y="([\d.]+)">(.*?)</text>', label)
    assert " ".join(text for _, text in lines) == long and len(lines) > 1
    assert float(lines[1][0]) - float(lines[0][0]) >= 11  # lines do not overlap
    many = similarity_view({"m": np.eye(24)}, [plain("red")] * 24, [f"{long} {n}" for n in range(24)])
    cut = re.findall(rf"<title>{long} \d+</title><text[^>]*>(.*?)</text></g>", many)
    assert len(cut) == 24 and all(text.endswith("…") for text in cut)  # a row has room for one line


def test_a_large_matrix_is_one_small_image():
    scores = np.random.default_rng(0).random((200, 150))
    view = similarity_view({"m": scores}, [plain("red")] * 200, ["a wall"] * 150, selected=(199, 149))
    assert shades(view).shape == (150, 200) and len(view) < 150_000
