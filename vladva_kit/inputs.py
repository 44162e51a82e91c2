"""Input that comes from outside, taken or refused: images, paths, JSON lines, captions, datasets.

Each refusal is a BadInput that names the file, the line, what was found there and the way out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import datasets


class BadInput(ValueError):
    """Input that cannot be used; the message names the file, the line, what was found there and the way out."""


@dataclass(frozen=True)
class Crop:
    """A part of an image: `Crop(Path("street.jpg"), (10, 20, 110, 220))`; left, top, right and bottom in pixels."""

    image: Path | bytes
    box: tuple[int, int, int, int]


def images_of(folder: Path, given: str | Path | None, meant: str) -> Path:
    """Where a benchmark's images lie: in the folder given, or else in `folder`/images.

        images_of(Path("sugar-crepe/data"), "val2017", "which is COCO's val2017")    # Path("val2017")

    Raises BadInput, saying with `meant` what to give, where there is no such folder.
    """
    images = Path(given) if given is not None else folder / "images"
    if not images.is_dir():
        raise BadInput(f"{images} is no folder; give image_folder=, {meant}")
    return images


def refusals(on_error: str) -> list[str] | None:
    """Where `leaving_out` notes refusals: a list with "skip", None with "raise"; ValueError for anything else."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
    return [] if on_error == "skip" else None


@contextmanager
def leaving_out(left_out: list[str] | None) -> Iterator[None]:
    """An entry that is refused inside the block is noted in `left_out`; where that is None, the refusal goes on.

    with leaving_out(refusals): cases.append(read_case(line))
    """
    try:
        yield
    except BadInput as error:
        if left_out is None:
            raise
        left_out.append(str(error))


def open_image(
    image: Image.Image | Path | str | bytes | Crop, alpha: Literal["white", "drop"] = "white"
) -> Image.Image:
    """Decode a path, the bytes of a file or a PIL image to RGB, as a viewer shows it: `open_image("cat.png").mode`.

    The camera's EXIF rotation is applied, 16-bit greys become 8-bit ones, what is transparent lies on white; with
    alpha="drop" its hidden colours show, as by `convert("RGB")` in Winoground's official script.
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
        greys = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((greys + 128) // 257).astype(np.uint8))
    if alpha == "white" and image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return image.convert("RGB")


def check_image(image: Image.Image | Path | bytes | Crop, where: str) -> None:
    """Decode an image to its last row and forget it; raises BadInput if it is missing, truncated or no image."""
    if isinstance(image, Crop):
        image = image.image
    name = f"image {image}" if isinstance(image, Path) else "the image"
    if not isinstance(image, Image.Image | Path | bytes):
        raise BadInput(f"{where}: {name} is of type {type(image).__name__}; give a PIL image, a path or a file's bytes")
    if isinstance(image, Path) and not image.is_file():
        raise BadInput(f"{where}: {name} does not exist; correct the name or put the file there")
    try:
        if not isinstance(image, Image.Image):
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
                opened.verify()  # checksums, which decoding alone may pass over
        open_image(image)
    except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
        raise BadInput(f"{where}: {name} cannot be read ({error}); replace the file or remove the entry") from error


def path_inside(folder: Path, name: object, where: str, key: str = "file_name") -> Path:
    """The path of `name` in `folder`; raises BadInput if it is no text or leads out (absolute, `..`, or by a link)."""
    if not isinstance(name, str) or not name.strip():
        raise BadInput(f"{where}: {key!r} is {name!r}; it must name an image in {folder}")
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    try:
        outside = absolute or not (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, links in a ring, a null byte
        raise BadInput(f"{where}: {key!r} {name!r} is no usable path ({error}); correct it") from error
    if outside:
        raise BadInput(
            f"{where}: {key!r} {name!r} leaves the folder {folder}; copy the image into it and give the path from there"
        )
    return folder / name


def json_line(raw: bytes, where: str) -> dict[str, Any]:
    """One line of a JSON-lines file as a dict; raises BadInput if it is not UTF-8, not JSON or no object."""
    try:
        record = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8, and numbers without end
        start = raw.decode("utf-8", "replace").strip()[:40]
        raise BadInput(f"{where}: not JSON ({error}): {start!r}; one JSON object a line is needed") from error
    if not isinstance(record, dict):
        raise BadInput(f'{where}: a JSON {type(record).__name__} instead of an object like {{"file_name": "0001.png"}}')
    return record


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises BadInput if it is missing, truncated, no JSON, or has a key twice in an object."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist; correct the name or put the file there")
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_no_repeats)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({error}); the file may be cut short: fetch it again") from error


def _no_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in items]
    if len(set(keys)) < len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise BadInput(f"{', '.join(twice)} occurs twice; an index must stand for one entry")
    return dict(items)


def entry_with(entry: Any, needed: Iterable[str], where: str) -> dict[str, Any]:
    """`entry` if it is an object with the keys needed; raises BadInput that names what was found instead."""
    needed = tuple(needed)
    if not isinstance(entry, dict) or not set(needed) <= set(entry):
        found = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise BadInput(f"{where}: found {found or 'nothing'}; needed are {', '.join(needed)}: rename them so")
    return entry


def numbered_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every line of a file that is not blank, with `"path, line 3"` to name it by; a byte-order mark is dropped."""
    for number, raw in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if raw.strip():
            yield f"{path}, line {number}", raw


def clean_caption(value: object, key: str, where: str) -> str:
    """A caption without blanks around it; raises BadInput if it is no text, is empty, or cannot be written in UTF-8."""
    if not isinstance(value, str):
        raise BadInput(f"{where}: {key!r} is {value!r}, of type {type(value).__name__}; it must be text")
    if not value.strip():
        raise BadInput(f"{where}: {key!r} is an empty caption; write one or leave the key out")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate, which json lets in and tokenizers refuse
        raise BadInput(f"{where}: {key!r} holds half a character ({error.reason}): {value!r}; correct it") from error
    return value.strip()


def pick_split(source: Any, split: str) -> datasets.Dataset:
    """A `datasets.Dataset` as it is, or the named split of a DatasetDict; raises BadInput for anything else."""
    if isinstance(source, dict) and split not in source:
        raise BadInput(f"the dataset has no split {split!r}; it has {', '.join(map(str, source))}")
    dataset = source[split] if isinstance(source, dict) else source
    if not hasattr(dataset, "column_names"):
        raise BadInput(f"a source of type {type(source).__name__}; give a folder, a datasets.Dataset or a list of Pair")
    if not hasattr(dataset, "__len__"):
        raise BadInput("a streamed dataset cannot be checked whole; load it without streaming=True")
    return dataset


def rows_undecoded(dataset: datasets.Dataset, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a dataset with its image columns as Path, bytes or PIL image, none decoded yet."""
    import datasets

    columns = [name for name in columns if name in dataset.column_names]
    dataset = dataset.with_format(None)
    for name in columns:
        if isinstance(dataset.features[name], datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    for row in dataset:
        yield row | {name: stored_image(row[name]) for name in columns}


def stored_image(value: Any) -> Any:
    """An undecoded image cell of a dataset as Path, bytes or PIL image."""
    if isinstance(value, dict):  # how datasets hold an undecoded image
        value = value.get("bytes") or value.get("path")
    return Path(value) if isinstance(value, str) else value
