"""Pictures as the viewer sees them, and one budget of pixels for every family."""

import io

import numpy as np
import pytest
import tiny_families
import torch
from PIL import Image

import vladva_kit as vk
from vladva_kit.embedder.prompts import image_inputs
from vladva_kit.models.images import open_image
from vladva_kit.models.resolution import within

pytestmark = pytest.mark.usefixtures("one_thread")
BUDGETED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "internvl", "mllama", "llava_onevision")


def seen(picture, form="PNG", **save):
    """A picture through a file and back."""
    file = io.BytesIO()
    picture.save(file, form, **save)
    return open_image(file.getvalue())


def test_gray_and_palette_pictures_are_what_the_viewer_sees():
    red = Image.new("RGB", (4, 3), (200, 30, 30))
    assert seen(red.quantize(8)).getpixel((0, 0)) == pytest.approx((200, 30, 30), abs=3)
    assert seen(Image.new("L", (4, 3), 77)).getpixel((0, 0)) == (77, 77, 77)
    assert seen(Image.new("1", (4, 3), 1)).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_picture_lies_on_white():
    picture = Image.new("RGBA", (4, 3), (255, 0, 0, 0))
    picture.putpixel((1, 1), (0, 0, 255, 255))
    picture.putpixel((2, 1), (0, 0, 0, 128))
    for form in ("PNG", "WEBP"):
        file = seen(picture, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
        assert file.getpixel((0, 0)) == (255, 255, 255)
        assert file.getpixel((1, 1)) == (0, 0, 255)
        assert file.getpixel((2, 1)) == pytest.approx((127, 127, 127), abs=1)
    palette = Image.new("P", (4, 3), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert seen(palette, transparency=0).getpixel((0, 0)) == (255, 255, 255)
    gray = Image.new("LA", (4, 3), (0, 0))
    assert seen(gray).getpixel((0, 0)) == (255, 255, 255)


def test_a_16_bit_picture_keeps_its_grays():
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(1, 256)
    out = np.asarray(seen(Image.fromarray(ramp)))[0]
    assert (np.abs(out[:, 0].astype(int) - np.arange(256)) <= 1).all()  # cut off, all but the first would be white
    assert (out[:, 0] == out[:, 2]).all()


def test_a_rotated_photograph_stands_upright():
    picture = Image.new("RGB", (6, 2), "white")
    picture.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    upright = seen(picture, "PNG", exif=exif)
    assert upright.size == (2, 6) and upright.getpixel((1, 0)) == (255, 0, 0)


def test_a_picture_over_the_budget_is_made_smaller_and_keeps_its_shape():
    assert within(Image.new("RGB", (4000, 3000)), 480_000).size == (800, 600)
    small = Image.new("RGB", (30, 20))
    assert within(small, 600) is small and within(small, None) is small
    assert within(Image.new("RGB", (1000, 1)), 10).size == (100, 1)


@pytest.mark.parametrize("family", BUDGETED)
def test_a_budget_of_pixels_means_fewer_tokens_or_tiles(tmp_path, family):
    folder = str(tiny_families.build(family, tmp_path / family))
    picture = Image.effect_noise((224, 224), 90).convert("RGB")
    read = []
    for max_pixels in (None, 28 * 28):
        lvlm = vk.load_lvlm(folder, max_pixels=max_pixels)
        embedder = vk.Embedder(lvlm)
        sequences = image_inputs(lvlm.processor, [picture], embedder.image_prompt)
        mask = sequences.inputs.get("aspect_ratio_mask")
        read.append(int(mask.sum()) if mask is not None else int(sequences.summary[0]))
        assert embedder.encode_image([picture]).isfinite().all()
        assert isinstance(embedder.generate(picture, "What is it?", max_new_tokens=2), str)
    assert read[1] < read[0]


def test_a_budget_changes_nothing_for_small_pictures_and_must_be_positive(tmp_path):
    folder = str(tiny_families.build("qwen2_vl", tmp_path / "qwen2_vl"))
    picture = Image.effect_noise((56, 28), 90).convert("RGB")
    free, bound = (vk.Embedder(vk.load_lvlm(folder, max_pixels=limit)) for limit in (None, 56 * 56))
    assert torch.equal(free.encode_image([picture]), bound.encode_image([picture]))
    with pytest.raises(ValueError, match="max_pixels=0"):
        vk.load_lvlm(folder, max_pixels=0)
