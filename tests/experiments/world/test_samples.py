"""Drawing samples, and the samples in data_samples as committed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vladva_kit as vk
from experiments.world import cases, miniatures, samples
from experiments.world.samples import DRAWN, WRITERS, write_sample
from experiments.world.twins import held_out
from vladva_kit.emoji_world.nouns import SEEN_STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.emoji_world.truth import caption_facts, is_true, words_of
from vladva_kit.evaluation.sugarcrepe import CATEGORIES

FOLDER = Path(__file__).resolve().parents[3] / "data_samples"
# The columns of facebook/winoground.
WINOGROUND = ["id", "image_0", "image_1", "caption_0", "caption_1", "tag", "secondary_tag", "num_main_preds"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(samples, "SPLITS", {"train": 6, "validation": 3, "test": 4, "unseen_style": 3})
    monkeypatch.setattr(samples, "TWIN_GROUPS", 2)
    monkeypatch.setattr(samples, "WINOGROUND_KINDS", {"object": 1, "color": 1, "size": 1, "relation": 1})


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_rows(rows, split):
    for row in rows:
        scene = Scene.from_dict(row["scene"])
        assert scene.style in ((UNSEEN_STYLE,) if split == "unseen_style" else SEEN_STYLES)
        texts = [row["short"], row.get("long"), *row.get("captions", ())]
        assert all(is_true(text, scene) for text in texts if text), row
        assert split != "train" or not held_out(scene), row
        assert ("long" in row) != ("group" in row), row  # twins have no long caption


def test_pairs_form_an_imagefolder_with_true_and_unique_captions(small, tmp_path):
    folder = write_sample("emoji_pairs", tmp_path / "pairs")
    for split, n in samples.SPLITS.items():
        rows = read_lines(folder / split / "metadata.jsonl")
        assert len(vk.load_pairs(folder, split=split)) == len(rows)
        assert len([row for row in rows if "group" not in row]) == n or split == "train"
        check_rows(rows, split)
    captions = [text for pair in vk.load_pairs(folder, split="test") for text in pair.captions]
    assert len(set(captions)) == len(captions) == 3 * samples.SPLITS["test"]


def test_the_same_seed_draws_the_same_files(small, tmp_path):
    folders = [write_sample("winoground_mini", tmp_path / str(i), seed) for i, seed in enumerate((5, 5, 6))]
    first, same, other = ([p.read_bytes() for p in sorted(folder.rglob("*.*"))] for folder in folders)
    assert first == same != other


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(folder, seed):
        (folder / "partial.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setitem(WRITERS, "vqa_mini", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_sample("vqa_mini", tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(tmp_path):
    (tmp_path / "sample").mkdir()
    with pytest.raises(FileExistsError, match="exists"):
        write_sample("emoji_pairs", tmp_path / "sample")


def test_committed_samples_take_at_most_25_mb():
    assert vk.sample("emoji_pairs") == FOLDER / "emoji_pairs"
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 25e6


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "classification_mini"])  # which has images only
def test_committed_text_files_equal_those_drawn_now(name, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "save_image", lambda scene, path, draw=None: None)
    monkeypatch.setattr(miniatures, "save_image", lambda scene, path, draw=None: None)
    drawn = write_sample(name, tmp_path / name)
    files = list(drawn.rglob("*.json*"))
    assert files
    for path in files:
        committed = FOLDER / name / path.relative_to(drawn)
        assert path.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), committed


@pytest.mark.parametrize("split", samples.SPLITS)
def test_committed_images_equal_those_rendered_now(split, tmp_path):
    for row in read_lines(FOLDER / "emoji_pairs" / split / "metadata.jsonl")[::97]:
        miniatures.save_image(Scene.from_dict(row["scene"]), tmp_path / "now.webp")
        now, committed = (
            np.asarray(Image.open(path).convert("RGB"), float)
            for path in (tmp_path / "now.webp", FOLDER / "emoji_pairs" / split / row["file_name"])
        )
        assert np.abs(now - committed).mean() < 0.5  # single pixels depend on the platform's sine


@pytest.mark.parametrize("split", samples.SPLITS)
def test_committed_pairs_have_their_images_and_true_captions(split):
    rows = read_lines(FOLDER / "emoji_pairs" / split / "metadata.jsonl")
    assert len([row for row in rows if "group" not in row]) == (1988 if split == "train" else samples.SPLITS[split])
    assert len({row["group"] for row in rows if "group" in row}) == (samples.TWIN_GROUPS if split == "train" else 0)
    check_rows(rows, split)
    images = {path.name for path in (FOLDER / "emoji_pairs" / split).iterdir()} - {"metadata.jsonl"}
    assert images == {row["file_name"] for row in rows}


@pytest.mark.parametrize("subfolder", ["", "unseen_style"])
def test_committed_winoground_has_the_official_columns_and_balanced_tags(subfolder):
    rows = read_lines(FOLDER / "winoground_mini" / subfolder / "examples.jsonl")
    assert len(rows) >= 100
    tags = Counter(row["collapsed_tag"] for row in rows)
    assert set(tags) == {"Object", "Attribute", "Relation"} and min(tags.values()) >= 30
    for row in rows:
        assert list(row)[: len(WINOGROUND)] == WINOGROUND
        first, second = row["caption_0"], row["caption_1"]
        assert sorted(words_of(first)) == sorted(words_of(second)) and caption_facts(first) != caption_facts(second)
        for key in ("image_0", "image_1"):
            assert (FOLDER / "winoground_mini" / subfolder / "images" / row[key]).is_file()


@pytest.mark.parametrize("subfolder", ["", "unseen_style"])
def test_committed_sugarcrepe_has_the_seven_official_files(subfolder):
    folder = FOLDER / "sugarcrepe_mini" / subfolder
    assert {path.stem for path in folder.glob("*.json")} == set(CATEGORIES)
    for category in CATEGORIES:
        entries = json.loads((folder / f"{category}.json").read_text(encoding="utf-8"))
        assert list(entries) == [str(number) for number in range(cases.CASES_PER_CATEGORY)]
        for entry in entries.values():
            assert set(entry) == {"filename", "caption", "negative_caption"}
            assert caption_facts(entry["caption"]) != caption_facts(entry["negative_caption"])
            assert (folder / "images" / entry["filename"]).is_file()


def test_committed_classes_equal_those_drawn_now():
    committed = {path.name for path in (FOLDER / "classification_mini" / "test").iterdir()}
    assert committed == set(miniatures.CLASSES)
