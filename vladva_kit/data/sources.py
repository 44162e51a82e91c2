"""Read rows of images and captions from a data frame, a dataset, a list, a generator, a torch Dataset or the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from vladva_kit.data.hub import check_repository_image, is_on_hub, open_dataset
from vladva_kit.data.images import image_columns
from vladva_kit.data.validation import of_split, pick_split, undecoded_image, without_decoding
from vladva_kit.models.images import BadInput, array_image, is_array

CAPTION_KEYS = ("short", "long", "captions")
USUAL_KEYS = ("text", "caption")  # names of captions in other trainers; read if none of the kit's own is there
USUAL_IMAGE_KEYS = ("img", "image_path", "path", "filepath", "file_name", "filename")  # read if there is no image
TAKEN = (
    "give a folder, a hub id, a datasets.Dataset, a pandas DataFrame, or pairs, dicts or tuples (image, short, long)"
)
Columns = Mapping[str, str]  # "image", "short", "long", "captions", "negatives" or "group" -> the source's name of it


@dataclass(frozen=True)
class Rows:
    """The rows of a source, unchecked: `Rows("the list of pairs", "item", [("dog.jpg", "a dog")])`."""

    name: str  # of the source, in messages
    unit: str  # of a row, in messages
    items: Iterable[Any]
    check_image: Callable[[Any, str], None] = lambda value, where: None  # before the image's file is read


def read_rows(source: Any, split: str, columns: Columns) -> Rows:
    """Return the rows of any source but a folder: `read_rows(frame, "train", {"short": "text"})`.

    Raises BadInput for a single image, for another kind of source, and for a table without the needed columns.
    """
    if is_on_hub(source):
        dataset = open_dataset(source, split)
        return Rows(f"{source} ({split})", "dataset row", _table(dataset, columns), check_repository_image)
    _refuse_image(source)
    if isinstance(source, dict):
        if key := columns.get("image") or usual_image_key(source):
            raise BadInput(f"the source is one dict with the key {key!r}; give a list of such dicts, one a pair")
        source = of_split(source, split)
    if hasattr(source, "column_names"):
        return Rows("the dataset", "dataset row", _table(pick_split(source, split), columns))
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        check_columns("the data frame", list(source.columns), columns)
        records = source.astype(object).where(source.notna(), None).to_dict("records")  # NaN: missing
        return Rows("the data frame", "row", records, _refuse_address)
    return Rows("the list of pairs", "item", _items(source), _refuse_address)


def _table(dataset: Any, columns: Columns) -> Iterable[dict[str, Any]]:
    check_columns("the dataset", dataset.column_names, columns)
    return without_decoding(dataset.with_format(None))


def check_columns(name: str, found: list[Any], columns: Columns) -> None:
    """Check that a table has the columns asked for, an image and a caption: `check_columns("it", ["jpg", "text"], {})`.

    Raises BadInput listing the columns that are there.
    """
    listed = ", ".join(map(str, found))
    if missing := [column for column in columns.values() if column not in found]:
        raise BadInput(f"{name} has no column {missing[0]!r}; its columns are {listed}")
    image = "image" in columns or usual_image_key(found)
    caption = {*CAPTION_KEYS, *USUAL_KEYS} & {*found, *columns}
    if not image or not caption:
        raise BadInput(
            f"{name} has the columns {listed}; it needs image and short or long: name them, as in "
            "load_pairs(source, image='jpg', short='title')"
        )


def _items(source: Any) -> Iterable[Any]:
    """Return an iterable of the items of a list, a generator or a torch Dataset."""
    if isinstance(source, DataLoader) or hasattr(source, "stream_state"):
        kind = type(source).__name__
        raise BadInput(f"a {kind} yields batches, not pairs; give its dataset, or train on a stream with fit")
    if hasattr(type(source), "__iter__"):
        return source
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):  # a torch Dataset, which need not end by itself
        return (source[index] for index in range(len(source)))
    called = "; call it first" if callable(source) else ""
    raise BadInput(f"the source is of type {type(source).__name__}{called}; {TAKEN}")


def _refuse_image(source: Any) -> None:
    if isinstance(source, Image.Image | bytes) or is_array(source):
        kind = type(source).__name__
        raise BadInput(f"the source is an image ({kind}), without a caption; give it as load_pairs([(image, 'a dog')])")


def _refuse_address(value: Any, where: str) -> None:
    path = value.get("path") if isinstance(value, dict) and not value.get("bytes") else value
    if isinstance(path, str) and "://" in path:
        raise BadInput(f"{where}: the image {path!r} is an address; download the images, and give their paths")


def row_record(row: Any, where: str, columns: Columns) -> dict[str, Any]:
    """Return a row as a dict: `row_record(("dog.jpg", "a dog"), "item 0", {}) == {"image": …, "short": "a dog"}`.

    In a tuple (image, short) or (image, short, long), a list in place of `short` holds several short captions.
    Raises BadInput for anything but a dict, a tuple or a list.
    """
    row = row._asdict() if hasattr(row, "_asdict") else row  # a namedtuple
    if isinstance(row, Mapping):  # pandas reads lists of texts from parquet as arrays
        return {key: value.tolist() if _holds_texts(value) else value for key, value in row.items()}
    if not isinstance(row, tuple | list):
        raise BadInput(f"{where} of the source is of type {type(row).__name__}; give Pairs, dicts or tuples")
    if columns:
        raise BadInput(f"{where} is a tuple, which has no column {next(iter(columns.values()))!r}; give dicts")
    if not 2 <= len(row) <= 3:
        raise BadInput(f"{where} is a tuple of {len(row)}; give (image, short) or (image, short, long)")
    record = dict(zip(("image", "short", "long"), row, strict=False))
    return record if not isinstance(row[1], list | tuple) else {**record, "short": None, "captions": row[1]}


def _holds_texts(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "O"


def renamed(record: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Name a record's captions as the kit does: `renamed({"title": "a dog"}, {"short": "title"})["short"] == "a dog"`.

    A single text becomes a list where the kit has one.
    """
    kept = {key: value for key, value in record.items() if key not in columns.values()}
    for role, column in columns.items():
        value = record.get(column)
        kept[role] = [value] if role in ("captions", "negatives") and isinstance(value, str) else value
    return kept


def usual_image_key(names: Iterable[Any]) -> str | None:
    """Return the name under which images are usually found: `usual_image_key(["caption", "jpg"]) == "jpg"`."""
    names = [name for name in names if isinstance(name, str)]
    return next(iter([*image_columns(names), *(name for name in USUAL_IMAGE_KEYS if name in names)]), None)


def as_image(value: Any, where: str) -> Any:
    """Return a row's image as PIL image, path or bytes, not decoded: `as_image("dog.jpg", "item 0")`.

    An array or tensor is converted. Raises BadInput for one that is no image.
    """
    if not is_array(value):
        return undecoded_image(value)
    try:
        return array_image(value)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
