"""The samples: whole, true, in the benchmarks' own formats, and hard in the way they say."""

import json
import random

import pytest

import vladva_kit as vk
from vladva_kit.emoji_world import cases, miniatures, samples
from vladva_kit.emoji_world.cases import SwapCase, sugarcrepe_case, swap_cases
from vladva_kit.emoji_world.nouns import SEEN_STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.samples import DRAWN, write_sample
from vladva_kit.emoji_world.scenes import Scene, sample_scene
from vladva_kit.emoji_world.truth import is_true, words_of
from vladva_kit.evaluation.vqa import load_vqa


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(samples, "SPLITS", {"train": 6, "validation": 3, "test": 4, "unseen_style": 3})
    monkeypatch.setattr(samples, "WINOGROUND_KINDS", {"object": 2, "color": 2, "size": 2, "relation": 2})
    monkeypatch.setattr(cases, "SUGARCREPE_EACH", 3)


@pytest.mark.parametrize("kind", ["object", "color", "size", "relation"])
def test_swapped_captions_hold_the_same_words_and_each_is_true_of_its_own_scene_only(kind):
    drawn = swap_cases(random.Random(1), kind)
    for case in (next(drawn) for _ in range(20)):
        assert isinstance(case, SwapCase)
        one, other = case.captions
        assert one != other and sorted(words_of(one)) == sorted(words_of(other))
        for scene, own, foreign in zip(case.scenes, case.captions, case.captions[::-1], strict=True):
            assert is_true(own, scene) and not is_true(foreign, scene)


@pytest.mark.parametrize(
    "category", ["add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att"]
)
def test_a_negative_caption_is_false_and_differs_as_its_category_says(category):
    rng, made = random.Random(2), []
    while len(made) < 20:
        scene = sample_scene(rng, 2)
        case = sugarcrepe_case(category, scene, rng)
        if case:
            made.append((scene, *case))
    for scene, true, false in made:
        assert is_true(true, scene) and not is_true(false, scene)
        more = len(words_of(false)) - len(words_of(true))
        if category.startswith("add"):
            assert more > 0
        if category.startswith("swap"):
            assert len(set(words_of(true)) ^ set(words_of(false))) <= 4  # "a"/"an" and plural forms may change


def test_pairs_are_an_imagefolder_with_all_splits_and_true_captions(small, tmp_path):
    folder = write_sample("emoji_pairs", tmp_path / "pairs")
    for split, n in samples.SPLITS.items():
        assert len(vk.load_pairs(folder, split=split)) == n
        for line in (folder / split / "metadata.jsonl").read_text().splitlines():
            row = json.loads(line)
            scene = Scene.from_dict(row["scene"])
            assert (scene.style == UNSEEN_STYLE) == (split == "unseen_style") and (scene.style in (*SEEN_STYLES, 4))
            assert all(is_true(text, scene) for text in [row["short"], row["long"], *row.get("captions", [])])
    captions = [text for pair in vk.load_pairs(folder, split="test") for text in pair.captions]
    assert len(set(captions)) == len(captions) == 3 * samples.SPLITS["test"]


def test_benchmarks_run_through_the_same_loaders_as_the_real_ones(small, tmp_path):
    clip = vk.ClipEmbedder("emoji-clip")
    winoground = write_sample("winoground_mini", tmp_path / "w")
    sugarcrepe = write_sample("sugarcrepe_mini", tmp_path / "s")
    for within in ("", "unseen_style"):
        result = vk.evaluate_winoground(clip, winoground / within)
        assert result.n == 8 and set(result.breakdown["tag"]) == set(samples.WINOGROUND_KINDS)
        assert vk.evaluate_sugarcrepe(clip, sugarcrepe / within).n == 7 * 3


def test_miniatures_run_through_the_same_loaders_as_the_real_ones(small, tmp_path, monkeypatch):
    monkeypatch.setattr(miniatures, "EACH", 4)
    monkeypatch.setattr(miniatures, "CLASS_PICTURES", 1)
    monkeypatch.setattr(miniatures, "CLASSES", miniatures.CLASSES[:3])
    clip = vk.ClipEmbedder("emoji-clip")
    images = write_sample("sugarcrepe_mini", tmp_path / "s") / "images"
    drawn = {name: write_sample(name, tmp_path / name) for name in DRAWN[3:]}
    found = vk.evaluate_sugarcrepe_pp(clip, drawn["sugarcrepe_pp_mini"], images)
    assert 5 <= found.n <= 20 and set(found.itt) >= {"swap_obj", "macro"}
    assert all(len(set(case.texts)) == 3 for case in found.cases)
    found = vk.evaluate_word_order(clip, drawn["word_order_mini"], images)
    assert list(found.accuracy) == ["relation", "attribution", "coco_order", "flickr30k_order"]
    for case in found.cases:
        assert all(sorted(wrong.split()) == sorted(case.caption.split()) for wrong in case.wrong)
    coco = vk.evaluate_retrieval(
        clip, drawn["captions_mini"] / "dataset_coco.json", image_folder=images, captions_per_image=5
    )
    assert (coco.n_images, coco.n_captions) == (4, 20)
    nocaps = drawn["captions_mini"] / "nocaps_val_4500_captions.json"
    assert vk.evaluate_retrieval(clip, nocaps, image_folder=images).n_captions == 40
    found = vk.evaluate_classification(clip, drawn["classification_mini"], templates=("a {}",))
    assert (found.n, found.classes) == (3, miniatures.CLASSES)
    asked = load_vqa(drawn["vqa_mini"], images)
    assert len(asked) == 8 and all(len(case.answers) == 10 for case in asked)
    assert sum(path.stat().st_size for folder in drawn.values() for path in folder.rglob("*.*")) < 200_000


def test_the_same_seed_draws_the_same_sample(small, tmp_path):
    one, same, other = (write_sample("winoground_mini", tmp_path / str(i), seed) for i, seed in enumerate((5, 5, 6)))
    bytes_of = {folder: [p.read_bytes() for p in sorted(folder.rglob("*.*"))] for folder in (one, same, other)}
    assert bytes_of[one] == bytes_of[same] != bytes_of[other]


@pytest.mark.parametrize("name", DRAWN)
def test_an_interrupted_drawing_leaves_nothing(name, small, tmp_path, monkeypatch):
    def broken(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cases, "_save", broken)
    monkeypatch.setattr(miniatures, "_write", broken)
    monkeypatch.setattr(miniatures, "render", broken)
    with pytest.raises(KeyboardInterrupt):
        write_sample(name, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(FileExistsError, match="exists"):
        write_sample("emoji_pairs", tmp_path / "x")
