"""The miniatures can be read by the loaders of the real benchmarks."""

import pytest

import vladva_kit as vk
from experiments.world import cases, miniatures, samples
from experiments.world.samples import DRAWN, write_sample
from vladva_kit.evaluation.vqa import load_vqa


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """All benchmark samples, drawn at a small size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "WINOGROUND_KINDS", {"object": 2, "color": 2, "size": 2, "relation": 2})
        patch.setattr(cases, "CASES_PER_CATEGORY", 3)
        patch.setattr(miniatures, "N_CASES", 4)
        patch.setattr(miniatures, "IMAGES_PER_CLASS", 1)
        patch.setattr(miniatures, "CLASSES", miniatures.CLASSES[:3])
        parent = tmp_path_factory.mktemp("samples")
        return {name: write_sample(name, parent / name) for name in DRAWN if name != "emoji_pairs"}


@pytest.fixture(scope="module")
def clip():
    return vk.ClipEmbedder("emoji-clip")


@pytest.mark.parametrize("subfolder", ["", "unseen_style"])
def test_winoground_and_sugarcrepe_can_be_evaluated(folders, clip, subfolder):
    result = vk.evaluate_winoground(clip, folders["winoground_mini"] / subfolder)
    assert result.n == 8 and set(result.breakdown["tag"]) == {"object", "color", "size", "relation"}
    assert vk.evaluate_sugarcrepe(clip, folders["sugarcrepe_mini"] / subfolder).n == 7 * 3


def test_sugarcrepe_pp_can_be_evaluated(folders, clip):
    result = vk.evaluate_sugarcrepe_pp(clip, folders["sugarcrepe_pp_mini"], folders["sugarcrepe_mini"] / "images")
    assert 5 <= result.n <= 20 and set(result.itt) >= {"swap_obj", "macro"}
    assert all(len(set(case.texts)) == 3 for case in result.cases)


def test_word_order_can_be_evaluated_and_its_wrong_captions_are_permutations(folders, clip):
    result = vk.evaluate_word_order(clip, folders["word_order_mini"], folders["sugarcrepe_mini"] / "images")
    assert list(result.accuracy) == ["relation", "attribution", "coco_order", "flickr30k_order"]
    for case in result.cases:
        assert all(sorted(wrong.split()) == sorted(case.caption.split()) for wrong in case.wrong)


def test_captions_can_be_evaluated_in_both_formats(folders, clip):
    files = folders["captions_mini"]
    image_folder = folders["sugarcrepe_mini"] / "images"
    coco = vk.evaluate_retrieval(clip, files / "dataset_coco.json", image_folder=image_folder, captions_per_image=5)
    assert (coco.n_images, coco.n_captions) == (4, 20)
    nocaps = vk.evaluate_retrieval(clip, files / "nocaps_val_4500_captions.json", image_folder=image_folder)
    assert nocaps.n_captions == 40


def test_classification_can_be_evaluated(folders, clip):
    result = vk.evaluate_classification(clip, folders["classification_mini"], templates=("a {}",))
    assert (result.n, result.classes) == (3, miniatures.CLASSES[:3])


def test_vqa_has_ten_answers_per_question(folders):
    loaded = load_vqa(folders["vqa_mini"], folders["sugarcrepe_mini"] / "images")
    assert len(loaded) == 8 and all(len(case.answers) == 10 for case in loaded)
