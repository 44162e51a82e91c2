"""Samples are found inside the package or next to it; the shipped photos are complete."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladva_kit.data import samples
from vladva_kit.data.pairs import check_lengths, load_pairs
from vladva_kit.data.samples import sample
from vladva_kit.evaluation.winoground import load_winoground
from vladva_kit.models.images import BadInput

PHOTOS = Path(__file__).resolve().parents[2] / "data_samples" / "photos"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The folder of a package in site-packages that has no samples."""
    package = tmp_path / "site-packages" / "vladva_kit"
    monkeypatch.setattr(samples, "__file__", str(package / "data" / "samples.py"))
    return package


@pytest.mark.parametrize("inside", [True, False])
def test_a_sample_is_found_inside_the_package_or_next_to_it(installed, inside):
    folder = (installed if inside else installed.parent) / "data_samples" / "photos"
    folder.mkdir(parents=True)
    (folder / "metadata.jsonl").write_text("")
    assert sample("photos") == folder


def test_a_missing_or_empty_sample_names_both_folders_and_the_fix(installed):
    inside = installed / "data_samples" / "emoji_pairs"
    inside.mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        sample("emoji_pairs")
    for text in (inside, installed.parent / "data_samples" / "emoji_pairs", "reinstall vladva_kit"):
        assert str(text) in str(error.value)


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_every_name_has_a_shipped_folder(name):
    assert sample(name) == PHOTOS.parent / name


def test_an_unknown_sample_lists_the_known_ones():
    with pytest.raises(BadInput, match="'coco'; the samples are emoji_pairs, winoground_mini, .*photos"):
        sample("coco")


@pytest.fixture(scope="module")
def pairs():
    return load_pairs(PHOTOS)


def words(text):
    return len(text.split())


def test_every_photo_has_a_short_and_a_long_caption_by_the_30_token_rule(pairs):
    assert 6 <= len(pairs) <= 8
    assert check_lengths(pairs, words) == pairs
    for pair in pairs:
        assert words(pair.short) < 30 <= words(pair.long) <= 500


def test_every_photo_is_a_small_jpeg_with_one_line_of_metadata(pairs):
    files = sorted(PHOTOS.glob("*.jpg"))
    assert sorted(pair.image for pair in pairs) == files
    for file in files:
        with Image.open(file) as photo:
            assert photo.format == "JPEG" and max(photo.size) <= 640
    assert sum(path.stat().st_size for path in PHOTOS.rglob("*.jpg")) < 1.5e6


def test_every_photo_has_author_license_and_source(pairs):
    lines = (PHOTOS / "LICENSES.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert set(rows) == {pair.image.name for pair in pairs}
    for row in rows.values():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 6 and all(cells)
        assert "CC" in cells[3] or "public domain" in cells[3]


def test_the_winoground_photos_differ_and_their_captions_reorder_the_same_words():
    cases = load_winoground(PHOTOS / "winoground")
    assert len(cases) == 4
    for case in cases:
        first, second = case.captions
        assert first != second and sorted(first.split()) == sorted(second.split())
        assert case.tags["collapsed_tag"] in ("Relation", "Attribute")
        images = [np.asarray(Image.open(image).convert("RGB"), float) for image in case.images]
        assert images[0].shape == images[1].shape
        assert np.abs(images[0] - images[1]).mean() > 10


def test_the_script_reproduces_the_winoground_photos(tmp_path):
    spec = importlib.util.spec_from_file_location("make_photo_cases", PHOTOS / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.write_photo_cases(tmp_path / "again")
    again, shipped = tmp_path / "again", PHOTOS / "winoground"
    lines = (again / "examples.jsonl").read_text()
    assert lines == (shipped / "examples.jsonl").read_text()
    for row in map(json.loads, lines.splitlines()):
        for key in ("image_0", "image_1"):
            new, old = (
                np.asarray(Image.open(folder / "images" / row[key]).convert("RGB"), float)
                for folder in (again, shipped)
            )
            assert np.abs(new - old).mean() < 3  # other JPEG libraries may round differently
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
