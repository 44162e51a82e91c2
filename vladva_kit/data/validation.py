"""Validate outside input: images, paths, JSON, captions and datasets.

Every error is a BadInput that names the file and line, the bad value and the fix.
"""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from vladva_kit.embedder.prompts import is_blank
from vladva_kit.models.files import RepeatedKey, is_regular, without_repeats
from vladva_kit.models.images import BadInput, FileBytes, open_file, open_image

if TYPE_CHECKING:
    import datasets


METADATA_FILES = ("metadata.jsonl", "metadata.csv")  # of an imagefolder, as `datasets` reads them
USUAL_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
HIDDEN_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}  # made by macOS, a NAS and Windows


def split_names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of a folder's visible folders: those of usual splits, and the others, such as classes.

    split_names(Path("imagenet"))    # (["train", "val"], [])
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    splits = [name for name in names if name.lower() in USUAL_SPLITS]
    return splits, [name for name in names if name not in splits]


def is_hidden(path: PurePath | str) -> bool:
    """Tell whether a relative path is hidden or was left by an operating system or editor: `is_hidden("._dog.jpg")`."""
    return any(part.startswith(".") or part in HIDDEN_FOLDERS for part in PurePath(path).parts)


def visible_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """List the files at any depth that have one of the suffixes and are not hidden, sorted.

    visible_files(Path("photos"), IMAGE_SUFFIXES)
    """
    suffixes = set(suffixes)
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes and not is_hidden(path.relative_to(folder)) and is_regular(path)
    ]


def metadata_file(folder: Path) -> Path | None:
    """Return the folder's metadata.jsonl, or its metadata.csv; None if it has neither."""
    return next((path for name in METADATA_FILES if is_regular(path := folder / name)), None)


def resolve_image_folder(folder: Path, image_folder: str | Path | None, hint: str) -> Path:
    """Return the folder of a benchmark's images: `image_folder`, or `folder`/images by default.

        resolve_image_folder(Path("sugar-crepe/data"), "val2017", "which is COCO's val2017")    # Path("val2017")

    Raises BadInput if it does not exist; `hint` tells the user which folder to give.
    """
    images = Path(image_folder) if image_folder is not None else folder / "images"
    if not images.is_dir():
        raise BadInput(f"{images} is not a folder; give image_folder=, {hint}")
    return images


def error_list(on_error: str) -> list[str] | None:
    """Return what `collect_errors` takes: an empty list for "skip", None for "raise".

    Raises ValueError for any other value.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
    return [] if on_error == "skip" else None


@contextmanager
def collect_errors(errors: list[str] | None) -> Iterator[None]:
    """Append the message of a BadInput raised in the block to `errors`, or let it propagate if `errors` is None.

    errors = error_list(on_error)
    for line in lines:
        with collect_errors(errors):
            cases.append(read_case(line))
    """
    try:
        yield
    except BadInput as error:
        if errors is None:
            raise
        errors.append(str(error))


def decode_image(image: Image.Image | Path | bytes | None, name: str, verify: bool = False) -> Image.Image:
    """Open an image as `open_image` does, but raise BadInput naming it if it cannot be decoded.

    verify: also test the file's checksums, which a decoder may ignore.
    """
    if image is None:
        raise BadInput(f"{name} is missing; add it or remove the entry")
    try:
        if verify and not isinstance(image, Image.Image):
            with open_file(image) as opened:
                opened.verify()
        return open_image(image)
    except MemoryError:  # not the image's fault
        raise
    except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
        raise BadInput(f"{name} cannot be read ({error}); replace the file or remove the entry") from error


def check_image(image: Image.Image | Path | bytes, where: str) -> tuple[int, int]:
    """Decode an image completely, discard it, and return its width and height.

    Raises BadInput if it is missing, truncated, not an image, or of gray values without a known range.
    """
    name = f"image {image.path}" if isinstance(image, FileBytes) else "the image"
    name = f"image {image}" if isinstance(image, Path) else name
    if not isinstance(image, Image.Image | Path | bytes):
        raise BadInput(f"{where}: {name} is of type {type(image).__name__}; give a PIL image, a path or a file's bytes")
    if isinstance(image, FileBytes) and not image:
        raise BadInput(f"{where}: {name} cannot be opened; download it and give its path")
    if isinstance(image, Path) and not is_regular(image):
        raise BadInput(f"{where}: {name} does not exist; correct the name or put the file there")
    return decode_image(image, f"{where}: {name}", verify=True).size


def path_inside(folder: Path, name: object, where: str, key: str = "file_name", known: set[Path] | None = None) -> Path:
    """Return `folder / name`. Raises BadInput if `name` is not text or leads outside (absolute, `..` or a link).

    known: folders that were found to be inside are added to it and not resolved again, which takes most of the time.
    """
    if not isinstance(name, str) or not name.strip():
        raise BadInput(f"{where}: {key!r} is {name!r}; it must name an image in {folder}")
    path = folder / name
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    # also without links: "link/../../a.png" may be inside here, and outside of a folder into which it is copied
    outside = outside or os.path.normpath(name).split(os.sep)[0] == ".."
    try:
        if not outside and (known is None or path.parent not in known):
            outside = not path.parent.resolve().is_relative_to(folder.resolve())
            if known is not None and not outside:
                known.add(path.parent)
        if not outside and _is_link(path):
            outside = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a cycle of links, a null byte
        raise BadInput(f"{where}: {key!r} {name[:100]!r} is not a valid path ({error}); correct it") from error
    if outside:
        raise BadInput(
            f"{where}: {key!r} {name!r} leaves the folder {folder}; copy the image into it and give a relative path"
        )
    return path


def _is_link(path: Path) -> bool:
    """Return whether a path is a link. Raises OSError and ValueError for a path that no file can have."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each non-blank line of a file with its location, "path, line 3"; a byte-order mark is dropped."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if raw.strip():
                yield f"{path}, line {number}", raw.removesuffix(b"\n")


def read_metadata(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each record of a metadata.jsonl or metadata.csv as a line of JSON, with its location.

    Empty cells of a CSV file are left out. Raises BadInput for a CSV file that is not UTF-8 or not CSV.
    """
    if path.suffix != ".csv":
        yield from read_lines(path)
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            record = {key: value for key, value in row.items() if key is not None and value}
            yield f"{path}, line {reader.line_num}", json.dumps(record).encode()
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: not CSV ({error}); is a quotation mark missing?") from error


def parse_json_line(raw: bytes, where: str) -> dict[str, Any]:
    """Parse one line of a JSON-lines file.

    Raises BadInput if it is not UTF-8, not JSON or not an object, or if it repeats a key.
    """
    try:
        record = json.loads(raw.decode("utf-8"), object_pairs_hook=without_repeats)
    except RepeatedKey as error:
        raise BadInput(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:  # includes invalid UTF-8 and integers with too many digits
        start = raw.decode("utf-8", "replace").strip()[:40]
        raise BadInput(f"{where}: not JSON ({error}): {start!r}; each line must be one JSON object") from error
    if not isinstance(record, dict):
        raise BadInput(f'{where}: a JSON {type(record).__name__} instead of an object like {{"file_name": "0001.png"}}')
    return record


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises BadInput if it is missing, truncated, not JSON, or repeats a key in an object."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist; correct the name or put the file there")
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=without_repeats)
    except RepeatedKey as error:
        raise BadInput(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({error}); the file may be truncated: download it again") from error


def require_keys(entry: Any, keys: Iterable[str], where: str) -> dict[str, Any]:
    """Return `entry` if it is an object with all `keys`; raise BadInput listing the keys it has instead."""
    keys = tuple(keys)
    if not isinstance(entry, dict) or not set(keys) <= set(entry):
        found = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise BadInput(f"{where}: found {found or 'no keys'}; needed are {', '.join(keys)}: rename the keys")
    return entry


def require_id(value: Any, key: str, where: str) -> Any:
    """Return the value if it is a number or a text. Raises BadInput for other JSON values, which name nothing."""
    if not isinstance(value, int | float | str):
        raise BadInput(f"{where}: the {key} is {value!r}; it must be a number or text")
    return value


def clean_caption(value: object, key: str, where: str) -> str:
    """Strip a caption. Raises BadInput if it is not text, is empty, or cannot be encoded as UTF-8."""
    if not isinstance(value, str):
        raise BadInput(f"{where}: {key!r} is {value!r}, of type {type(value).__name__}; it must be text")
    if is_blank(value):
        raise BadInput(f"{where}: {key!r} is an empty caption; write one or remove the key")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate: JSON allows it, tokenizers fail on it
        raise BadInput(f"{where}: {key!r} holds half a character ({error.reason}): {value!r}; correct it") from error
    return value.strip()


def of_split(source: Any, split: str) -> Any:
    """Return the named split of a dict of splits, and any other source unchanged. Raises BadInput without the split."""
    if isinstance(source, dict) and split not in source:
        raise BadInput(f"the dataset has no split {split!r}; it has {', '.join(map(str, source))}")
    return source[split] if isinstance(source, dict) else source


def pick_split(source: Any, split: str) -> datasets.Dataset:
    """Return a `datasets.Dataset` unchanged, or the named split of a DatasetDict. Raises BadInput for anything else."""
    dataset = of_split(source, split)
    if not hasattr(dataset, "column_names"):
        raise BadInput(f"the source is of type {type(source).__name__}; give a folder, a datasets.Dataset or Pairs")
    if not hasattr(dataset, "__len__"):
        raise BadInput(
            "a streamed dataset cannot be checked in advance; load it without streaming=True, or use stream_pairs"
        )
    return dataset


def without_decoding(dataset: Any) -> Any:
    """Make a dataset, in memory or streamed, yield its images as stored bytes or paths instead of pixels."""
    import datasets

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return dataset


def undecoded_rows(dataset: datasets.Dataset, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield a dataset's rows with the given image columns as Path, bytes or PIL image, not decoded."""
    columns = [name for name in columns if name in dataset.column_names]
    for row in without_decoding(dataset.with_format(None)):
        yield row | {name: undecoded_image(row[name]) for name in columns}


def hub_folders() -> tuple[Path, ...]:
    """Return the folders in which `datasets` and the hub's client keep what they downloaded: `hub_folders()`."""
    import datasets
    from huggingface_hub import constants

    caches = datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE
    return tuple(Path(folder) for folder in caches)


def _inside_roots(value: str, roots: Sequence[Path]) -> str:
    """Return a dataset's path, a relative one in the first root. Raises BadInput if it is in none of them."""
    *inner, last = value.split("::")  # "zip://0.jpg::/data/pairs.zip": the last part is on a disk
    if last.startswith("hf://"):
        return value
    path = Path(os.path.normpath(roots[0] / last))
    if "://" in last or not any(path.resolve().is_relative_to(root.resolve()) for root in roots):
        raise BadInput(
            f"the dataset names the image {value!r}, which is not in {roots[0]}: copy the image there, or store its "
            "bytes in the dataset"
        )
    return "::".join([*inner, str(path)])


def undecoded_image(value: Any, roots: Sequence[Path] | None = None) -> Any:
    """Return the image cell of an undecoded dataset as Path, bytes or PIL image.

    A file inside an archive or on the hub ("zip://0.jpg::pairs.zip", "hf://…") is read to bytes, to none if that fails.
    roots: the folders in which paths may be, as the dataset may come from anyone; relative ones begin in the first.
    None allows all paths. Raises BadInput for another path.
    """
    if isinstance(value, dict):  # how datasets stores an undecoded image
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and roots is not None:
        value = _inside_roots(value, roots)
    if isinstance(value, str) and "://" in value:
        from datasets.utils.file_utils import xopen

        try:
            with xopen(value, "rb") as file:
                content = FileBytes(file.read())
        except Exception:  # every file system has its own errors; `check_image` names the path
            content = FileBytes()
        content.path = value
        return content
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return Path(value) if isinstance(value, str) else value
