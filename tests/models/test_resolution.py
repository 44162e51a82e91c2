"""max_pixels limits the resolution in every family."""

import pytest
import tiny_families
import torch
from PIL import Image

import vladva_kit as vk
from vladva_kit.embedder.prompts import image_inputs
from vladva_kit.models.resolution import shrink_to

pytestmark = pytest.mark.usefixtures("one_thread")
ADJUSTABLE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "internvl", "mllama", "llava_onevision")


def test_an_image_above_max_pixels_shrinks_and_keeps_its_aspect_ratio():
    assert shrink_to(Image.new("RGB", (4000, 3000)), 480_000).size == (800, 600)
    small = Image.new("RGB", (30, 20))
    assert shrink_to(small, 600) is small and shrink_to(small, None) is small
    assert shrink_to(Image.new("RGB", (1000, 1)), 10).size == (100, 1)


@pytest.mark.parametrize("family", ADJUSTABLE)
def test_max_pixels_reduces_tokens_or_tiles(tmp_path, family):
    folder = str(tiny_families.build(family, tmp_path / family))
    image = Image.effect_noise((224, 224), 90).convert("RGB")
    counts = []
    for max_pixels in (None, 28 * 28):
        lvlm = vk.load_lvlm(folder, max_pixels=max_pixels)
        embedder = vk.Embedder(lvlm)
        batch = image_inputs(lvlm.processor, [image], embedder.image_prompt)
        mask = batch.inputs.get("aspect_ratio_mask")
        counts.append(int(mask.sum()) if mask is not None else int(batch.summary_positions[0]))
        assert embedder.encode_image([image]).isfinite().all()
        assert isinstance(embedder.generate(image, "What is it?", max_new_tokens=2), str)
    assert counts[1] < counts[0]


def test_max_pixels_leaves_small_images_alone_and_must_be_positive(tmp_path):
    folder = str(tiny_families.build("qwen2_vl", tmp_path / "qwen2_vl"))
    image = Image.effect_noise((56, 28), 90).convert("RGB")
    unlimited, limited = (vk.Embedder(vk.load_lvlm(folder, max_pixels=limit)) for limit in (None, 56 * 56))
    assert torch.equal(unlimited.encode_image([image]), limited.encode_image([image]))
    with pytest.raises(ValueError, match="max_pixels=0"):
        vk.load_lvlm(folder, max_pixels=0)
