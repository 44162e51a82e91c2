"""Images with several captions, in the files that retrieval benchmarks come in: Karpathy's splits, COCO's, nocaps'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    collect_errors,
    entry_with,
    images_of,
    path_inside,
    read_json,
    rows_undecoded,
)
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

FILES = {  # by their official names, as a folder is searched for them; and how many captions of an image count
    "dataset_coco.json": 5,
    "dataset_flickr30k.json": 5,
    "nocaps_val_4500_captions.json": None,
    "coco_karpathy_test.json": 5,
    "flickr30k_test.json": 5,
    "captions_val2017.json": 5,
    "captions_val2014.json": 5,
}
IMAGE_COLUMNS = ("image", "images", "jpg")
CAPTION_COLUMNS = ("captions", "caption", "raw", "sentences_raw", "annotations_captions", "text")


@dataclass(frozen=True)
class Captioned:
    """An image and all its captions, repeats included, as the benchmark's file has them."""

    image: Any = field(repr=False)
    captions: tuple[str, ...]


Entry = tuple[str, str, Callable[[], tuple[list[Any], list[Any]]]]  # where, key, (possible paths, captions)


def has_caption_file(source: Path) -> bool:
    """Whether `load_caption_file` can read it: a JSON file, or a folder that holds one of the official names."""
    return source.suffix == ".json" or any((source / name).is_file() for name in FILES)


def captions_that_count(source: Path) -> int | None:
    """The first captions of an image that retrieval counts in a file: 5 in COCO's and Flickr30k's, else None for all.

    captions_that_count(Path("dataset_coco.json"))    # 5
    """
    return FILES.get(_file_of(source).name)


def load_caption_file(
    source: str | Path,
    image_folder: str | Path | None = None,
    split: str = "test",
    skipped: list[str] | None = None,
) -> list[Captioned]:
    """Images with all their captions: `load_caption_file("dataset_coco.json", "coco/images", "test")`.

    The file is one of
    - Karpathy's: `{"images": [{"filename", "filepath", "split", "sentences": [{"raw"}]}]}`, of which `split` is taken;
    - COCO's and nocaps': `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`;
    - BLIP's lists of Karpathy's test splits: `[{"image", "caption": […]}]`.

    The images lie in `image_folder`, or else in the folder `images` beside the file.
    Raises BadInput for broken JSON, other keys, an image that is missing or named twice; with a list `skipped`,
    refused images are noted there and the others returned.
    """
    path = _file_of(Path(source))
    images = images_of(path.parent, image_folder, "the folder that the file's image names start from")
    gallery: list[Captioned] = []
    seen: dict[str, str] = {}
    for where, key, read in _entries(read_json(path), path, split):
        with collect_errors(skipped):
            if key in seen:
                raise BadInput(f"{where}: the image {key} is that of {seen[key]} too; each must stand once")
            seen[key] = where
            gallery.append(_captioned(*read(), images, where))
    if not gallery:
        raise BadInput(f"{path}: no image in it can be used{': ' + skipped[0] if skipped else ''}")
    return gallery


def gallery_of_dataset(
    dataset: datasets.Dataset, skipped: list[str] | None = None, split: str = "test"
) -> list[Captioned]:
    """Images with all their captions in a dataset: `gallery_of_dataset(hub_dataset("lmms-lab/NoCaps", "val"))`.

    One column is the image, one a caption or a list of them, by any of the names in use on the hub. Where a column
    `split` says which part a row belongs to, as in nlphuji/flickr30k, whose one split holds all 31,014 images, only the
    rows of `split` are taken. Raises BadInput for other columns, and for rows that cannot be used; with a list
    `skipped`, those are noted there.
    """
    image = next((name for name in IMAGE_COLUMNS if name in dataset.column_names), None)
    column = next((name for name in CAPTION_COLUMNS if name in dataset.column_names), None)
    if image is None or column is None:
        raise BadInput(
            f"the dataset has the columns {', '.join(dataset.column_names)}; needed are image and captions: rename "
            "them with dataset.rename_columns({'img': 'image', 'sentences': 'captions'})"
        )
    gallery: list[Captioned] = []
    places = _rows_of(dataset, split)
    for index, row in zip(places, rows_undecoded(dataset.select(places), [image]), strict=True):
        where = f"dataset row {index}"
        with collect_errors(skipped):
            check_image(row[image], where)
            gallery.append(Captioned(row[image], _captions(row[column], where)))
    if not gallery:
        raise BadInput(f"the dataset: no row in it can be used{': ' + skipped[0] if skipped else ''}")
    return gallery


def _rows_of(dataset: datasets.Dataset, split: str) -> list[int]:
    """The rows that belong to a split, by the column that says so; all where there is none, or it never changes."""
    parts = list(dataset["split"]) if "split" in dataset.column_names else []
    if len(set(parts)) < 2:
        return list(range(len(dataset)))
    if split not in parts:
        raise BadInput(
            f"the dataset's column 'split' has no {split!r}; it has {', '.join(sorted(set(map(str, parts))))}"
        )
    return [index for index, part in enumerate(parts) if part == split]


def _file_of(source: Path) -> Path:
    if source.suffix == ".json":
        return source
    found = [source / name for name in FILES if (source / name).is_file()]
    if len(found) > 1:
        raise BadInput(f"{source} holds {', '.join(path.name for path in found)}; give the one file that is meant")
    return found[0]


def _entries(content: Any, path: Path, split: str) -> Iterator[Entry]:
    if isinstance(content, list):
        yield from _blip(content, path)
    elif isinstance(content, dict) and isinstance(content.get("annotations"), list):
        yield from _coco(content, path)
    elif isinstance(content, dict) and isinstance(content.get("images"), list):
        yield from _karpathy(content["images"], path, split)
    else:
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise BadInput(f"{path}: found {found or 'nothing'}; needed are Karpathy's or COCO's images with captions")


def _karpathy(entries: list[Any], path: Path, split: str) -> Iterator[Entry]:
    splits = sorted({str(entry.get("split")) for entry in entries if isinstance(entry, dict)})
    if split not in splits:
        raise BadInput(f"{path} has no split {split!r}; it has {', '.join(splits) or 'none'}")

    def read(entry: dict[str, Any], where: str) -> tuple[list[Any], list[Any]]:
        entry_with(entry, ("filename", "sentences"), where)
        if not isinstance(entry["sentences"], list):
            raise BadInput(f"{where}: 'sentences' is {entry['sentences']!r}; it must be a list")
        names = [f"{entry['filepath']}/{entry['filename']}"] if entry.get("filepath") else []
        return [*names, entry["filename"]], [entry_with(one, ("raw",), where)["raw"] for one in entry["sentences"]]

    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and entry.get("split") == split:
            where = f"{path.name}, image {index}"
            yield where, str(entry.get("filename")), partial(read, entry, where)


def _coco(content: dict[str, Any], path: Path) -> Iterator[Entry]:
    captions: dict[Any, list[Any]] = {}
    for index, one in enumerate(content["annotations"]):
        one = entry_with(one, ("image_id", "caption"), f"{path.name}, annotation {index}")
        captions.setdefault(one["image_id"], []).append(one["caption"])

    def read(entry: dict[str, Any], where: str) -> tuple[list[Any], list[Any]]:
        entry_with(entry, ("id", "file_name"), where)
        return [entry["file_name"]], captions.get(entry["id"], [])

    for index, entry in enumerate(content.get("images") or []):
        where = f"{path.name}, image {index}"
        key = str(entry.get("id")) if isinstance(entry, dict) else ""
        yield where, key, partial(read, entry, where)


def _blip(entries: list[Any], path: Path) -> Iterator[Entry]:
    def read(entry: dict[str, Any], where: str) -> tuple[list[Any], list[Any]]:
        entry_with(entry, ("image", "caption"), where)
        captions = entry["caption"] if isinstance(entry["caption"], list) else [entry["caption"]]
        return [entry["image"]], captions

    for index, entry in enumerate(entries):
        where = f"{path.name}, entry {index}"
        key = str(entry.get("image")) if isinstance(entry, dict) else ""
        yield where, key, partial(read, entry, where)


def _captioned(names: list[Any], captions: list[Any], folder: Path, where: str) -> Captioned:
    paths = [path_inside(folder, name, where, "image") for name in names]
    image = next((path for path in paths if path.is_file()), paths[0])
    check_image(image, where)
    return Captioned(image, _captions(captions, where))


def _captions(found: Any, where: str) -> tuple[str, ...]:
    listed = found if isinstance(found, list | tuple) else [found]
    if not listed:
        raise BadInput(f"{where}: no caption; retrieval needs at least one for each image")
    return tuple(clean_caption(text, "caption", where) for text in listed)
