"""Where patches lie: a family's own grid, the part of the picture that its tower reads, and what is no grid at all."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import build

import vladva_kit as vk
from vladva_kit.analysis import read_images, seen_part
from vladva_kit.analysis.attention import patch_grid


def processor(**settings):
    return SimpleNamespace(processor=SimpleNamespace(image_processor=SimpleNamespace(**settings)))


def inputs(pictures, *leading):
    return {"input_ids": torch.zeros(pictures, 9), "pixel_values": torch.zeros(*leading, 3, 28, 28)}


@pytest.mark.parametrize(("tokens", "grid"), [(64, (8, 8)), (65, (8, 8)), (63, None), (66, None), (1, (1, 1))])
def test_a_square_with_or_without_a_class_token_is_a_grid(tokens, grid):
    assert patch_grid(None, inputs(2, 2), tokens) == grid


def test_a_picture_cut_into_tiles_is_no_grid_even_where_its_tokens_make_a_square():
    assert patch_grid(None, inputs(1, 4), 256) is None
    assert patch_grid(None, inputs(1, 1, 4), 256) is None
    assert patch_grid(None, inputs(1, 1, 1), 256) == (16, 16)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory, one_thread):
    return vk.Embedder(vk.load_lvlm(str(build("qwen2_vl", tmp_path_factory.mktemp("qwen2_vl")))))


def test_the_grid_of_a_wide_picture_is_qwens_own(qwen):
    wide, high = Image.new("RGB", (112, 56), "red"), Image.new("RGB", (56, 112), "red")
    for picture, grid in ((wide, (2, 4)), (high, (4, 2))):
        reading = read_images(qwen, [picture], attention=True)
        assert reading.grid == grid and reading.maps.shape[-2:] == grid
        assert reading.maps.reshape(reading.attention.shape).tolist() == reading.attention.tolist()
    both = read_images(qwen, [wide, high], attention=True)  # as many tokens, in another shape
    with pytest.raises(ValueError, match="read one picture at a time"):
        both.maps  # noqa: B018


def test_where_the_processor_crops_only_the_middle_is_seen():
    crops = processor(do_center_crop=True, size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    picture = Image.new("RGB", (400, 300), "red")
    picture.paste("blue", (50, 0, 350, 300))
    seen = seen_part(crops, picture)
    assert seen.size == (300, 300) and np.array_equal(np.unique(np.asarray(seen).reshape(-1, 3), axis=0), [[0, 0, 255]])
    larger = processor(do_center_crop=True, size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    assert seen_part(larger, Image.new("RGB", (320, 640))).size == (280, 280)


def test_where_nothing_is_cropped_all_is_seen():
    picture = Image.new("RGB", (40, 30))
    assert seen_part(processor(do_center_crop=False, size={"shortest_edge": 28}), picture).size == (40, 30)
    assert seen_part(processor(size={"shortest_edge": 28}), picture).size == (40, 30)
