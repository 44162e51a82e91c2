"""How many pixels of a picture a family's tower reads: one budget, whatever its image processor calls it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image

from vladva_kit.models.families import Family

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def within(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """The picture, made smaller where it has more pixels than allowed; its shape is kept.

    within(Image.new("RGB", (4000, 3000)), 480_000).size    # (800, 600)
    """
    if max_pixels is None or image.width * image.height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (image.width * image.height))
    size = max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def limit_pixels(processor: ProcessorMixin, family: Family, max_pixels: int) -> None:
    """Sets the image processor's own limits, where it would make a small picture large again.

        limit_pixels(processor, family, 512 * 512)

    A family that cuts pictures into tiles gets as many as fit into the budget, and at least one.
    Raises ValueError for a budget below 1.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels={max_pixels}: give the most pixels a picture may have, such as 512 * 512")
    images = processor.image_processor
    if family.budget == "pixels":
        least = min(images.size["shortest_edge"], max_pixels)
        images.size = type(images.size)(**{**dict(images.size), "shortest_edge": least, "longest_edge": max_pixels})
    elif family.budget == "edge":
        tile = images.max_image_size["longest_edge"]
        longest = max(1, math.isqrt(max_pixels) // tile) * tile
        longest = min(longest, images.size["longest_edge"])
        images.size = type(images.size)(longest_edge=longest)
        images.do_image_splitting = images.do_image_splitting and longest > tile
    elif family.budget == "tiles":
        tile = images.size["height"] * images.size["width"]
        images.max_patches = min(images.max_patches, max(1, max_pixels // tile))
