"""Pictures by the million, one at a time and undecoded: of a folder, of an imagefolder or of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vladva_kit.data.validation import json_line, numbered_lines, path_inside, pick_split, stored_image
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MARKS = ("dataset_info.json", "dataset_dict.json")  # what `save_to_disk` leaves


@dataclass(frozen=True)
class ImageRecord:
    """A picture that is not opened yet: its name in the source, and what is written about it there."""

    name: str
    image: Image.Image | Path | bytes = field(repr=False)
    record: dict[str, Any] = field(default_factory=dict, repr=False)


class DatasetImages(Sequence[ImageRecord]):
    """A dataset's rows as pictures, download when they are asked for; a row's name is its number."""

    def __init__(self, dataset: datasets.Dataset) -> None:
        import datasets

        kinds = dataset.features
        images = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
        if not images:
            raise BadInput(f"the dataset has no column of images; its columns are {', '.join(kinds)}")
        self.column = "image" if "image" in images else images[0]
        self.dataset = dataset.with_format(None)
        for name in images:  # bytes or a path, not pixels
            self.dataset = self.dataset.cast_column(name, datasets.Image(decode=False))
        self.images = set(images)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> ImageRecord:  # type: ignore[override]
        if not 0 <= row < len(self):
            raise IndexError(row)
        found = self.dataset[row]
        record = {name: value for name, value in found.items() if name not in self.images}
        return ImageRecord(f"{row:09}", stored_image(found[self.column]), record)


def list_images(source: str | Path | datasets.Dataset, split: str = "train") -> Sequence[ImageRecord]:
    """All pictures of a source, in an order that is the same every time.

        len(list_images("photos"))     # a folder of pictures, at any depth
        list_images("data_samples/emoji_pairs", "test")[0].record["short"]

    A source is a folder (with metadata.jsonl, or with pictures alone), a folder that `save_to_disk` wrote, a folder of
    parquet files or of webdataset tar files, a hub id, or a datasets.Dataset.
    Raises BadInput for what is none of these, and for a line of metadata.jsonl that names no picture.
    """
    if not isinstance(source, str | Path):
        return DatasetImages(pick_split(source, split))
    folder = Path(source)
    if not folder.is_dir():
        if str(source).count("/") == 1 and not str(source).startswith((".", "/")):
            return DatasetImages(_loaded(str(source), split))
        raise BadInput(f"{source} is neither a folder nor a hub id")
    if (folder / split).is_dir() and not (folder / "metadata.jsonl").is_file():
        folder = folder / split
    if (folder / "metadata.jsonl").is_file():
        return list(_from_metadata(folder))
    if any((folder / mark).is_file() for mark in MARKS):
        return DatasetImages(pick_split(_saved(folder), split))
    for ending, kind in ((".tar", "webdataset"), (".parquet", "parquet")):
        files = sorted(str(path) for path in folder.glob(f"*{ending}"))
        if files:
            return DatasetImages(_loaded(kind, "train", files))
    pictures = [
        ImageRecord(path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in ENDINGS and path.is_file()
    ]
    if not pictures:
        raise BadInput(f"{folder} holds no pictures ({', '.join(sorted(ENDINGS))}), tar or parquet files")
    return pictures


def _from_metadata(folder: Path) -> Iterator[ImageRecord]:
    for where, raw in numbered_lines(folder / "metadata.jsonl"):
        record = json_line(raw, where)
        path = path_inside(folder, record.get("file_name"), where)
        yield ImageRecord(str(record["file_name"]), path, record)


def _saved(folder: Path) -> Any:
    import datasets

    return datasets.load_from_disk(str(folder))


def _loaded(name: str, split: str, files: list[str] | None = None) -> Any:
    import datasets

    if files is None:
        return datasets.load_dataset(name, split=split)
    return datasets.load_dataset(name, data_files={split: files}, split=split)


def fingerprint(pictures: Sequence[ImageRecord]) -> str:
    """A short name for a set of pictures: another set, or another order, gives another one."""
    if isinstance(pictures, DatasetImages):
        ends = [pictures[row] for row in sorted({0, len(pictures) - 1})] if len(pictures) else []
        names = [str(len(pictures)), *(f"{end.name} {end.record!r} {_content(end.image)}" for end in ends)]
    else:
        names = [picture.name for picture in pictures]
    return hashlib.sha256("\n".join(names).encode("utf-8", "replace")).hexdigest()[:16]


def _content(image: Image.Image | Path | bytes) -> str:
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else str(image)
