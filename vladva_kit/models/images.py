"""Open images as a viewer shows them: upright, in RGB, on white."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps


class BadInput(ValueError):
    """Input that cannot be used; the message names the file, the line, what was found there and the way out."""


@dataclass(frozen=True)
class Crop:
    """A part of an image: `Crop(Path("street.jpg"), (10, 20, 110, 220))`; left, top, right and bottom in pixels."""

    image: Path | bytes
    box: tuple[int, int, int, int]


def open_image(
    image: Image.Image | Path | str | bytes | Crop, alpha: Literal["white", "drop"] = "white"
) -> Image.Image:
    """Decode a path, the bytes of a file or a PIL image to RGB, as a viewer shows it: `open_image("cat.png").mode`.

    The camera's EXIF rotation is applied, 16-bit grays become 8-bit ones, what is transparent lies on white; with
    alpha="drop" its hidden colors show, as by `convert("RGB")` in Winoground's official script.
    Raises PIL's own errors for what is no image, FileNotFoundError for a missing file.
    """
    if isinstance(image, Crop):
        return open_image(image.image, alpha).crop(image.box)
    if isinstance(image, Image.Image):
        return _as_seen(image, alpha)
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return _as_seen(opened, alpha)


def open_images(images: Sequence[Image.Image | Path | str | bytes], first: int = 0) -> list[Image.Image]:
    """Pictures decoded to RGB as `open_image` does; errors number them from `first`: `open_images(["cat.png"])`.

    Raises BadInput naming the picture that cannot be read, FileNotFoundError for a path that leads nowhere.
    """
    opened = []
    for number, image in enumerate(images, start=first):
        try:
            opened.append(open_image(image))
        except FileNotFoundError:  # names the path itself
            raise
        except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
            name = f" ({image})" if isinstance(image, str | Path) else ""
            raise BadInput(
                f"picture {number}{name} cannot be read ({error}); replace the file or leave it out"
            ) from error
    return opened


def _as_seen(image: Image.Image, alpha: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # PIL would cut off all above 255
        grays = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grays + 128) // 257).astype(np.uint8))
    if alpha == "white" and image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return image.convert("RGB")
