"""Limit the number of pixels per image, in the way each family's image processor requires."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image

from vladva_kit.models.families import Family

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def shrink_to(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """Shrink larger images, keeping the aspect ratio: `shrink_to(Image.new("RGB", (40, 30)), 300).size == (20, 15)`."""
    if max_pixels is None or image.width * image.height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (image.width * image.height))
    size = max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def limit_pixels(processor: ProcessorMixin, family: Family, max_pixels: int) -> None:
    """Limit a processor that would enlarge small images again: `limit_pixels(processor, family, 512 * 512)`.

    A family that splits images into tiles gets as many as fit, at least one. Raises ValueError for a limit below 1.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels={max_pixels}: pass the maximum pixels per image, such as 512 * 512")
    images = processor.image_processor
    if family.resolution_control == "pixels":
        smallest = min(images.size["shortest_edge"], max_pixels)
        images.size = type(images.size)(**{**dict(images.size), "shortest_edge": smallest, "longest_edge": max_pixels})
    elif family.resolution_control == "edge":
        tile = images.max_image_size["longest_edge"]
        longest = min(max(1, math.isqrt(max_pixels) // tile) * tile, images.size["longest_edge"])
        images.size = type(images.size)(longest_edge=longest)
        images.do_image_splitting = images.do_image_splitting and longest > tile
    elif family.resolution_control == "tiles":
        tile = images.size["height"] * images.size["width"]
        images.max_patches = min(images.max_patches, max(1, max_pixels // tile))
