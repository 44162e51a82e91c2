"""The samples in data_samples, as they are shipped: whole, small enough, and of the world that is drawn now."""

import json
from collections import Counter
from pathlib import Path

import pytest

import vladva_kit as vk
from vladva_kit.emoji_world import cases, miniatures, samples
from vladva_kit.emoji_world.nouns import SEEN_STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.emoji_world.truth import facts, is_true, words_of
from vladva_kit.evaluation.sugarcrepe import CATEGORIES

FOLDER = Path(__file__).resolve().parents[2] / "data_samples"
# the columns of facebook/winoground
WINOGROUND = ["id", "image_0", "image_1", "caption_0", "caption_1", "tag", "secondary_tag", "num_main_preds"]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_together_they_take_at_most_25_mb():
    assert vk.sample("emoji_pairs") == FOLDER / "emoji_pairs"
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 25e6


@pytest.mark.parametrize("split", samples.SPLITS)
def test_each_split_has_its_pictures_and_captions_that_are_true(split):
    rows = lines(FOLDER / "emoji_pairs" / split / "metadata.jsonl")
    assert len(rows) == samples.SPLITS[split]
    for row in rows:
        scene = Scene.from_dict(row["scene"])
        assert scene.style in ((UNSEEN_STYLE,) if split == "unseen_style" else SEEN_STYLES)
        assert all(is_true(text, scene) for text in (row["short"], row["long"], *row.get("captions", ()))), row
    pictures = {path.name for path in (FOLDER / "emoji_pairs" / split).iterdir()} - {"metadata.jsonl"}
    assert pictures == {row["file_name"] for row in rows}


@pytest.mark.parametrize("within", ["", "unseen_style"])
def test_winogrounds_miniature_has_its_columns_and_over_100_cases_of_three_kinds(within):
    rows = lines(FOLDER / "winoground_mini" / within / "examples.jsonl")
    assert len(rows) >= 100
    kinds = Counter(row["collapsed_tag"] for row in rows)
    assert set(kinds) == {"Object", "Attribute", "Relation"} and min(kinds.values()) >= 30
    for row in rows:
        assert list(row)[: len(WINOGROUND)] == WINOGROUND
        one, other = row["caption_0"], row["caption_1"]
        assert sorted(words_of(one)) == sorted(words_of(other)) and facts(one) != facts(other)  # known words alone
        for key in ("image_0", "image_1"):
            assert (FOLDER / "winoground_mini" / within / "images" / row[key]).is_file()


@pytest.mark.parametrize("within", ["", "unseen_style"])
def test_sugarcrepes_miniature_has_the_seven_official_files(within):
    folder = FOLDER / "sugarcrepe_mini" / within
    assert {path.stem for path in folder.glob("*.json")} == set(CATEGORIES)
    for category in CATEGORIES:
        entries = json.loads((folder / f"{category}.json").read_text(encoding="utf-8"))
        assert list(entries) == [str(number) for number in range(cases.SUGARCREPE_EACH)]
        for entry in entries.values():
            assert set(entry) == {"filename", "caption", "negative_caption"}
            assert facts(entry["caption"]) != facts(entry["negative_caption"])
            assert (folder / "images" / entry["filename"]).is_file()


def test_the_classes_shipped_are_those_that_are_drawn_now():
    shipped = {path.name for path in (FOLDER / "classification_mini" / "test").iterdir()}
    assert shipped == set(miniatures.CLASSES)
