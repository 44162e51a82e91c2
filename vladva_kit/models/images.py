"""Open images as a viewer displays them: upright, in RGB, on a white background."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

ImageLike = Image.Image | Path | str | bytes  # an image, its path, or the bytes of its file


class BadInput(ValueError):
    """Input that cannot be used; the message names the file, the line, the value and the fix."""


@dataclass(frozen=True)
class Crop:
    """A region of an image: `Crop(Path("street.jpg"), (10, 20, 110, 220))`; left, top, right, bottom in pixels."""

    image: Path | bytes
    box: tuple[int, int, int, int]


def open_image(image: ImageLike | Crop, alpha: Literal["white", "drop"] = "white") -> Image.Image:
    """Open a path, encoded bytes or a PIL image as upright RGB: `open_image("cat.png").mode`.

    EXIF rotation is applied, 16-bit gray becomes 8-bit, and transparency is composited on white. With alpha="drop" the
    hidden colors show, as with `convert("RGB")` in Winoground's official script.
    Raises PIL's errors for undecodable data, FileNotFoundError for a missing file.
    """
    if isinstance(image, Crop):
        return open_image(image.image, alpha).crop(image.box)
    if isinstance(image, Image.Image):
        return _to_rgb(image, alpha)
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return _to_rgb(opened, alpha)


def open_images(images: Sequence[ImageLike], first: int = 0) -> list[Image.Image]:
    """Open several images with `open_image`; error messages count from `first`: `open_images(["cat.png"])`.

    Raises BadInput naming the image that cannot be read, FileNotFoundError for a missing file.
    """
    opened = []
    for number, image in enumerate(images, start=first):
        try:
            opened.append(open_image(image))
        except FileNotFoundError:  # its message names the path
            raise
        except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
            name = f" ({image})" if isinstance(image, str | Path) else ""
            raise BadInput(f"image {number}{name} cannot be read ({error}); replace it or leave it out") from error
    return opened


def _to_rgb(image: Image.Image, alpha: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # PIL would clip values above 255
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((gray + 128) // 257).astype(np.uint8))
    if alpha == "white" and image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")
