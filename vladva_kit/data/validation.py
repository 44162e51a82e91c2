"""Input that comes from outside, taken or refused: images, paths, JSON lines, captions, datasets.

Each refusal is a BadInput that names the file, the line, what was found there and the way out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from vladva_kit.models.images import BadInput, Crop, open_image

if TYPE_CHECKING:
    import datasets


def images_of(folder: Path, given: str | Path | None, meant: str) -> Path:
    """Where a benchmark's images lie: in the folder given, or else in `folder`/images.

        images_of(Path("sugar-crepe/data"), "val2017", "which is COCO's val2017")    # Path("val2017")

    Raises BadInput, saying with `meant` what to give, where there is no such folder.
    """
    images = Path(given) if given is not None else folder / "images"
    if not images.is_dir():
        raise BadInput(f"{images} is no folder; give image_folder=, {meant}")
    return images


def error_list(on_error: str) -> list[str] | None:
    """Where `collect_errors` notes error_list: a list with "skip", None with "raise"; ValueError for anything else."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
    return [] if on_error == "skip" else None


@contextmanager
def collect_errors(skipped: list[str] | None) -> Iterator[None]:
    """An entry that is refused inside the block is noted in `skipped`; where that is None, the refusal goes on.

    with collect_errors(error_list): cases.append(read_case(line))
    """
    try:
        yield
    except BadInput as error:
        if skipped is None:
            raise
        skipped.append(str(error))


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
