"""Limit the number of pixels per image, in the way each family's image processor requires."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image

from vladva_kit.models.families import Family
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    from transformers import ProcessorMixin


MAX_RESIZED = 2**24  # pixels of an image that a processor enlarges: 200 MB as float32


def shrink_to(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """Shrink larger images, keeping the aspect ratio: `shrink_to(Image.new("RGB", (40, 30)), 300).size == (20, 15)`."""
    if max_pixels is None or image.width * image.height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (image.width * image.height))
    size = max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def check_resized(processor: ProcessorMixin, size: tuple[int, int]) -> None:
    """Raise BadInput for an image that the processor enlarges beyond MAX_RESIZED: `check_resized(processor, (1, 900))`.

    A processor that scales the shorter edge to a fixed length makes a narrow image very long.
    """
    edges = dict(getattr(processor.image_processor, "size", None) or {})
    if edges.get("shortest_edge") is None or edges.get("longest_edge") is not None:
        return
    width, height = size
    scale = edges["shortest_edge"] / min(width, height)
    if scale > 1 and width * height * scale**2 > MAX_RESIZED:
        raise BadInput(
            f"an image of {width} x {height} pixels would be enlarged to {round(width * scale)} x "
            f"{round(height * scale)}: crop it"
        )


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
