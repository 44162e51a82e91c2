"""Open images as a viewer displays them: upright, in RGB, on a white background."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from vladva_kit.models.files import is_regular, printable

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

# an image, its path, the bytes of its file, or its values as `array_image` reads them
ImageLike: TypeAlias = "Image.Image | Path | str | bytes | np.ndarray | Tensor"
IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga",
    ".tif", ".tiff", ".webp",
})  # fmt: skip
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MAX_PIXELS = 2**27  # of one image, 134 million: 400 MB once decoded
MAX_BATCH_PIXELS = 2**28  # of the decoded images of a batch
MAX_MESSAGE = 2000  # characters of a BadInput
MAX_ASPECT_RATIO = 1000  # `check_resized` refuses less where a processor scales the shorter edge to a fixed length
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC = 274, 258, 262  # tags of EXIF and TIFF
WHITE_IS_ZERO = 0  # a value of PHOTOMETRIC
ARRAY_WHITE = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}  # dtype -> value of white
ARRAY_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels
MAX_12_BIT = 4095.0  # cameras, scanners and depth sensors write 8 to 12 bits into 16
_UPRIGHT = {  # by the EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadInput(ValueError):
    """Input that cannot be used; the message names the file, the line, the value and the fix.

    A value that fills pages is cut in the middle: the place stays at the start, and the fix at the end. Names come from
    the input, so that control characters in them are escaped.
    """

    def __init__(self, message: str) -> None:
        cut = len(message) > MAX_MESSAGE
        super().__init__(f"{message[: MAX_MESSAGE // 2]} … {message[-MAX_MESSAGE // 4 :]}" if cut else message)

    def __str__(self) -> str:
        return printable(super().__str__())


class WrongType(BadInput, TypeError):
    """Input of another type than the function takes, such as one image instead of a list, or NaN instead of text."""


class FileBytes(bytes):
    """The bytes of a file inside an archive or on the hub; `path` tells it from a copy under another name."""

    path: str = ""


@dataclass(frozen=True)
class Crop:
    """A region of an image: `Crop(Path("street.jpg"), (10, 20, 110, 220))`; left, top, right, bottom in pixels."""

    image: Path | bytes
    box: tuple[int, int, int, int]


def open_image(image: ImageLike | Crop) -> Image.Image:
    """Open a path, encoded bytes, a PIL image, an array or a tensor as upright RGB: `open_image("cat.png").mode`.

    EXIF rotation is applied, transparency is composited on white, the first frame of an animation is taken, and gray
    values are scaled to 8 bits: of 16-bit images, of floats from 0 to 1 or from 0 to 255, and of 32-bit integers that
    fit 8 or 16 bits. The result has no EXIF, so that opening it again does not rotate it again.
    Warns of 16-bit values so low that all look black. Raises BadInput for gray values outside these ranges, an array
    that `array_image` refuses, a crop outside its image, no pixels or more than MAX_PIXELS, an aspect ratio above
    MAX_ASPECT_RATIO and a path that is not a regular file; PIL's errors for undecodable data,
    FileNotFoundError for a missing file.
    """
    if isinstance(image, Crop):
        opened = open_image(image.image)
        check_box(image.box, opened.size)
        return opened.crop(image.box)
    if isinstance(image, Image.Image):
        check_size(image.size)
        return _to_rgb(image)
    if is_array(image):
        return array_image(image)
    with open_file(image) as opened:
        return _to_rgb(opened)


def is_array(image: object) -> TypeIs[np.ndarray | Tensor]:
    """Tell whether a value is a numpy array or a torch tensor: `is_array(np.zeros((8, 8)))`."""
    return isinstance(image, np.ndarray) or (hasattr(image, "detach") and hasattr(image, "numpy"))


def array_image(array: Any) -> Image.Image:
    """Convert an array or tensor of one image to RGB: `array_image(np.zeros((64, 48, 3), "uint8")).size == (48, 64)`.

    Shapes are (height, width), (height, width, channels) and (channels, height, width) with 1, 3 or 4 channels, the
    fourth of which is opacity. If both fit, the channels of an array are the last and those of a tensor the first axis.
    Values are 8-bit integers from 0 to 255, 16-bit ones from 0 to 65535, or floats from 0 to 1.
    Raises BadInput for any other shape, dtype or range, and for NaN.
    """
    tensor = hasattr(array, "detach")
    if tensor:
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()  # numpy has no bfloat16
    pixels = _channels_last(array, tensor)
    check_size((pixels.shape[1], pixels.shape[0]))
    white = ARRAY_WHITE.get(array.dtype.name)
    if white is None:
        raise BadInput(
            f"the image is an array of dtype {array.dtype}; give uint8 from 0 to 255, uint16 from 0 to 65535, or "
            "floats from 0 to 1"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -0.001 * white and high <= 1.001 * white):  # NaN fails too
        raise BadInput(
            f"the image is an array of {array.dtype} from {low:g} to {high:g}; floats must be from 0 to 1: undo its "
            "normalization, or divide by 255"
        )
    if white != 255:
        pixels = np.floor(pixels.astype(np.float64).clip(0, white) * (255 / white) + 0.5).astype(np.uint8)
    mode = ARRAY_MODES[pixels.shape[2]]
    pixels = np.ascontiguousarray(pixels[:, :, 0] if mode == "L" else pixels)
    return _to_rgb(Image.fromarray(pixels))


def _channels_last(array: np.ndarray, prefer_first: bool) -> np.ndarray:
    """Return the array of one image as (height, width, channels)."""
    if array.ndim == 2 and array.size:
        return array[:, :, None]
    if array.ndim == 3 and array.size:
        last = array.shape[2] in ARRAY_MODES
        if array.shape[0] in ARRAY_MODES and (prefer_first or not last):
            return array.transpose(1, 2, 0)
        if last:
            return array
    raise BadInput(
        f"an array of shape {array.shape} is not one image; give (height, width), (height, width, channels) or "
        "(channels, height, width) with 1, 3 or 4 channels"
    )


@contextmanager
def open_file(image: Path | str | bytes) -> Iterator[Image.Image]:
    """Open an image file, or its bytes, without decoding it: `with open_file("cat.png") as image: image.size`.

    Only the formats in FORMATS are tried: PIL would hand PostScript, whatever its name, to Ghostscript.
    Raises BadInput for what is not a regular file, such as a pipe, and for a size that `check_size` refuses.
    """
    if not isinstance(image, bytes):
        check_regular(image)
    Image.init()  # so that OPEN lists all formats of this installation
    formats = [name for name in FORMATS if name in Image.OPEN]
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=formats) as opened:
        check_size(opened.size)
        yield opened


def check_regular(path: Path | str) -> None:
    """Raise BadInput for a pipe, a device or a folder, which may never end, WrongType for no path at all.

    check_regular("cat.png")
    """
    if not isinstance(path, Path | str):  # a number would be taken for an open file
        raise WrongType(f"it is of type {type(path).__name__}; pass a PIL image, a path or a file's bytes")
    if not is_regular(path):
        os.stat(path)  # FileNotFoundError for a missing file
        raise BadInput(f"{path} is not a regular file; give the path of an image file")


def check_size(size: tuple[int, int]) -> None:
    """Raise BadInput for an image too large or too narrow to process: `check_size((640, 480))`."""
    width, height = size
    if not width * height:
        raise BadInput(f"{width} x {height} pixels hold no image; leave it out")
    if width * height > MAX_PIXELS:
        raise BadInput(f"{width} x {height} pixels are more than {MAX_PIXELS:,}; shrink the image")
    if max(size) > MAX_ASPECT_RATIO * max(1, min(size)):
        raise BadInput(f"{width} x {height} pixels are narrower than 1:{MAX_ASPECT_RATIO}; crop the image")


def open_images(images: Sequence[ImageLike | Crop], first: int = 0) -> list[Image.Image]:
    """Open several images with `open_image`; error messages count from `first`: `open_images(["cat.png"])`.

    Raises BadInput naming the image that cannot be read, FileNotFoundError for a missing file, WrongType for a single
    image.
    """
    check_image_list(images)
    opened = []
    for number, image in enumerate(images, start=first):
        try:
            opened.append(open_image(image))
        except (FileNotFoundError, MemoryError):  # the first names the path, and the second is not the image's fault
            raise
        except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
            name = f" ({image})" if isinstance(image, str | Path) else ""
            raise BadInput(f"image {number}{name} cannot be read ({error}); replace it or leave it out") from error
    return opened


def image_batches(
    images: Sequence[ImageLike | Crop], batch_size: int, rows: list[int] | None = None
) -> Iterator[list[Image.Image]]:
    """Open images in batches of at most `batch_size` images and MAX_BATCH_PIXELS: `next(image_batches(paths, 64))`.

    rows: an empty list. Images with equal pixels are then opened in one batch only, and each image's number among the
    different ones is appended to it. Raises as `open_images` does.
    """
    opened: list[Image.Image] = []
    pixels, different = 0, dict[Any, int]()
    for number, image in enumerate(images):
        (one,) = open_images([image], number)
        if rows is not None:
            key = one.size, hashlib.sha256(one.tobytes()).digest()
            is_new = key not in different
            rows.append(different.setdefault(key, len(different)))
            if not is_new:
                continue
        size = one.width * one.height
        if opened and (len(opened) == batch_size or pixels + size > MAX_BATCH_PIXELS):
            yield opened
            opened, pixels = [], 0
        opened.append(one)
        pixels += size
    if opened:
        yield opened


def check_image_list(images: object) -> None:
    """Raise WrongType for a single image, a generator or anything but a list of images or an array of several."""
    if isinstance(images, Image.Image | str | Path | bytes) or (is_array(images) and images.ndim < 4):
        raise WrongType("a list of images is needed; got a single image; put it in a list")
    check_list(images, "images")


def check_list(items: object, what: str) -> None:
    """Raise WrongType for what has no order or can be read only once: `check_list(["a dog"], "captions")`."""
    if not (hasattr(items, "__len__") and hasattr(items, "__getitem__")) or isinstance(items, Mapping | bytes):
        raise WrongType(f"a list of {what} is needed; got {type(items).__name__}: make it a list")


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()  # a TIFF rotates itself, and a PNG may have its EXIF after the pixels
    upright = _UPRIGHT.get(_orientation(image))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # PIL would clip the values to 0-255
        rgb = _scale_gray(image)
    elif image.has_transparency_data:
        # PIL cannot convert premultiplied gray (La) directly
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    return rgb if upright is None else rgb.transpose(upright)


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation only: Pillow's `exif_transpose` also writes all other tags back, which can fail."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF that cannot be parsed names no orientation; viewers show the pixels as stored
        return 1


def _scale_gray(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float gray values to 8 bits."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode == "F":
        white = 1.0 if high < 2 else 255.0
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):  # these two are 16-bit files
        white = 255.0 if high < 256 else 65535.0
    else:
        white = 4095.0 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535.0
    if not (low >= -0.001 * white and high <= 1.001 * white):  # NaN fails too
        raise BadInput(
            f"{'float' if image.mode == 'F' else '32-bit'} gray values (mode {image.mode}) from {low:g} to {high:g} "
            "have no known range: scale them to 0-255 and convert the image to mode L"
        )
    if white > MAX_12_BIT and 0 < high <= MAX_12_BIT:
        warnings.warn(
            "16-bit gray values below 4096 of 65535 look black, as in an image viewer: if they are of 8 to 12 bits, "
            "scale them",
            stacklevel=4,
        )
    gray = np.floor(values.clip(0, white) * (255 / white) + 0.5).astype(np.uint8)
    if image.mode != "F" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        gray = 255 - gray
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")


def check_box(box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    """Raise BadInput if a box (left, top, right, bottom) holds no pixel of an image of this size (width, height)."""
    (left, top, right, bottom), (width, height) = box, size
    if max(left, 0) >= min(right, width) or max(top, 0) >= min(bottom, height):
        raise BadInput(f"the box {box} holds no pixel of the image of {width} x {height}; correct the box")
