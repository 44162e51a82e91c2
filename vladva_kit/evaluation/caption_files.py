"""Read images with several captions, in the formats of retrieval benchmarks: Karpathy's splits, COCO, nocaps, BLIP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.data.validation import (
    clean_caption,
    path_inside,
    read_json,
    require_id,
    require_keys,
    resolve_image_folder,
)
from vladva_kit.evaluation.cases import read_cases
from vladva_kit.evaluation.hub_data import dataset_entries, find_columns
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

FILES = {  # official names, found in a folder, and how many captions per image the benchmark uses
    "dataset_coco.json": 5,
    "dataset_flickr30k.json": 5,
    "nocaps_val_4500_captions.json": None,
    "coco_karpathy_test.json": 5,
    "flickr30k_test.json": 5,
    "captions_val2017.json": 5,
    "captions_val2014.json": 5,
}
CAPTION_COLUMNS = ("captions", "caption", "raw", "sentences_raw", "annotations_captions", "text")


@dataclass(frozen=True)
class CaptionedImage:
    """An image and all its captions as the benchmark's file has them, repeats included."""

    image: Any = field(repr=False)
    captions: tuple[str, ...]
    id: str = ""


def find_caption_file(source: Any) -> Path | None:
    """Return the file that `load_caption_file` reads: a JSON file, or the one with an official name in a folder.

    Raises BadInput if the folder holds several of them.
    """
    path = Path(source) if isinstance(source, str | Path) else Path()
    if path.suffix == ".json":
        return path
    found = [path / name for name in FILES if isinstance(source, str | Path) and (path / name).is_file()]
    if len(found) > 1:
        raise BadInput(f"{source} holds {', '.join(path.name for path in found)}; give one of these files")
    return found[0] if found else None


def load_caption_file(
    source: str | Path, image_folder: str | Path | None = None, split: str = "test", skipped: list[str] | None = None
) -> list[CaptionedImage]:
    """Read images with all their captions: `load_caption_file("dataset_coco.json", "coco/images", "test")`.

    The file is one of
    - Karpathy's: `{"images": [{"filename", "filepath", "split", "sentences": [{"raw"}]}]}`; only `split` is read;
    - COCO's and nocaps': `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`;
    - BLIP's lists of Karpathy's test splits: `[{"image", "caption": […]}]`.

    Images are read from `image_folder`, or the folder `images` next to the file.
    Raises BadInput for invalid JSON, other keys, and an image that is missing or listed twice; see `read_cases`.
    """
    path = find_caption_file(source)
    if path is None:
        raise BadInput(f"{source} holds none of {', '.join(FILES)}; give a JSON file of captions or its folder")
    folder = resolve_image_folder(path.parent, image_folder, "the folder that the file's image names start from")
    entries, parse = _parser(read_json(path), path, split)

    def read(entry: Any, location: str) -> CaptionedImage:
        key, names, captions = parse(entry, location)
        paths = [path_inside(folder, name, location, "image") for name in names]
        image = next((path for path in paths if path.is_file()), paths[0])
        return CaptionedImage(image, _clean_captions(captions, location), str(key))

    return read_cases(entries, read, path, skipped)


def load_caption_dataset(
    dataset: datasets.Dataset, skipped: list[str] | None = None, split: str = "test"
) -> list[CaptionedImage]:
    """Read images with all their captions: `load_caption_dataset(open_dataset("lmms-lab/NoCaps", "val"))`.

    One column holds the image, another a caption or a list of them, under any of the names in use on the hub. If a
    column `split` has several values, as in nlphuji/flickr30k, only the rows of `split` are read.
    Raises BadInput for other columns and for bad rows; see `read_cases`.
    """
    image, captions = find_columns(dataset, image=("image", "images", "jpg"), captions=CAPTION_COLUMNS)

    def read(entry: tuple[str, dict[str, Any]], location: str) -> CaptionedImage:
        key, row = entry
        return CaptionedImage(row[image], _clean_captions(row[captions], location), key)

    rows, values = None, list(dataset["split"]) if "split" in dataset.column_names else []
    if len(set(values)) > 1:
        rows = [index for index, value in enumerate(values) if value == split]
        if not rows:
            splits = ", ".join(sorted(set(map(str, values))))
            raise BadInput(f"the dataset's column 'split' has no {split!r}; it has {splits}")
    return read_cases(dataset_entries(dataset, [image], rows), read, "the dataset", skipped)


def _parser(content: Any, path: Path, split: str) -> tuple[list[tuple[str, Any]], Callable[[Any, str], tuple]]:
    """Return the entries with their locations, and the function that parses one to (key, file names, captions)."""
    if isinstance(content, list):
        return [(f"{path.name}, entry {index}", entry) for index, entry in enumerate(content)], _parse_blip
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise BadInput(f"{path}: found {found or 'nothing'}; Karpathy's or COCO's images with captions are needed")
    entries = [(f"{path.name}, image {index}", entry) for index, entry in enumerate(content["images"])]
    if isinstance(content.get("annotations"), list):
        captions: dict[Any, list[Any]] = {}
        for index, one in enumerate(content["annotations"]):
            one = require_keys(one, ("image_id", "caption"), f"{path.name}, annotation {index}")
            image = require_id(one["image_id"], "image_id", f"{path.name}, annotation {index}")
            captions.setdefault(image, []).append(one["caption"])
        return entries, partial(_parse_coco, captions=captions)
    splits = sorted({str(entry.get("split")) for _, entry in entries if isinstance(entry, dict)})
    if split not in splits:
        raise BadInput(f"{path} has no split {split!r}; it has {', '.join(splits) or 'none'}")
    of_split = [one for one in entries if isinstance(one[1], dict) and one[1].get("split") == split]
    return of_split, _parse_karpathy


def _parse_karpathy(entry: Any, location: str) -> tuple[Any, list[Any], Any]:
    entry = require_keys(entry, ("filename", "sentences"), location)
    if not isinstance(entry["sentences"], list):
        raise BadInput(f"{location}: 'sentences' is {entry['sentences']!r}; it must be a list")
    names = [f"{entry['filepath']}/{entry['filename']}"] if entry.get("filepath") else []
    captions = [require_keys(one, ("raw",), location)["raw"] for one in entry["sentences"]]
    return entry["filename"], [*names, entry["filename"]], captions


def _parse_blip(entry: Any, location: str) -> tuple[Any, list[Any], Any]:
    entry = require_keys(entry, ("image", "caption"), location)
    return entry["image"], [entry["image"]], entry["caption"]


def _parse_coco(entry: Any, location: str, captions: dict[Any, list[Any]]) -> tuple[Any, list[Any], Any]:
    entry = require_keys(entry, ("id", "file_name"), location)
    key = require_id(entry["id"], "id", location)
    return key, [entry["file_name"]], captions.get(key, [])


def _clean_captions(captions: Any, location: str) -> tuple[str, ...]:
    captions = captions if isinstance(captions, list | tuple) else [captions]
    if not captions:
        raise BadInput(f"{location}: no caption; each image needs at least one")
    return tuple(clean_caption(text, "caption", location) for text in captions)
