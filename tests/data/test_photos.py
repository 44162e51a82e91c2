import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladva_kit.data.pairs import check_lengths, load_pairs
from vladva_kit.data.samples import sample
from vladva_kit.evaluation.winoground import load_winoground

PHOTOS = Path(__file__).resolve().parents[2] / "data_samples" / "photos"


@pytest.fixture(scope="module")
def pairs():
    return load_pairs(PHOTOS)


def words(text):
    return len(text.split())


def test_the_photographs_are_found_by_name():
    assert sample("photos") == PHOTOS


def test_every_photograph_has_a_short_and_a_long_caption_by_the_thirty_token_rule(pairs):
    assert 6 <= len(pairs) <= 8
    assert check_lengths(pairs, words) == pairs
    for pair in pairs:
        assert words(pair.short) < 30 <= words(pair.long) <= 500


def test_every_photograph_is_a_small_jpeg_with_one_line_of_metadata(pairs):
    files = sorted(PHOTOS.glob("*.jpg"))
    assert sorted(pair.image for pair in pairs) == files
    for file in files:
        with Image.open(file) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= 640
    assert sum(path.stat().st_size for path in PHOTOS.rglob("*.jpg")) < 1.5e6


def test_every_photograph_has_its_author_license_and_source_named(pairs):
    lines = (PHOTOS / "LICENSES.md").read_text(encoding="utf-8").splitlines()
    named = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert set(named) == {pair.image.name for pair in pairs}
    for row in named.values():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 6 and all(cells)
        assert "CC" in cells[3] or "public domain" in cells[3]


def test_four_winoground_cases_load_and_exchange_the_order_of_the_same_words():
    cases = load_winoground(PHOTOS / "winoground")
    assert len(cases) == 4
    for case in cases:
        first, second = case.captions
        assert first != second and sorted(first.split()) == sorted(second.split())
        assert case.tags["collapsed_tag"] in ("Relation", "Attribute")
        pictures = [np.asarray(Image.open(image).convert("RGB"), float) for image in case.images]
        assert pictures[0].shape == pictures[1].shape
        assert np.abs(pictures[0] - pictures[1]).mean() > 10


def test_the_compositions_are_remade_by_their_script(tmp_path):
    spec = importlib.util.spec_from_file_location("make_photo_cases", PHOTOS / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.write_photo_cases(tmp_path / "again")
    made, shipped = ((folder / "examples.jsonl").read_text() for folder in (tmp_path / "again", PHOTOS / "winoground"))
    assert made == shipped
    for row in map(json.loads, made.splitlines()):
        for key in ("image_0", "image_1"):
            again, before = (
                np.asarray(Image.open(folder / "images" / row[key]).convert("RGB"), float)
                for folder in (tmp_path / "again", PHOTOS / "winoground")
            )
            assert np.abs(again - before).mean() < 3  # another JPEG library may round otherwise
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
