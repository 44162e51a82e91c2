"""List the images of a folder, an imagefolder or a dataset without decoding them; made for millions of images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vladva_kit.data.store import Store
from vladva_kit.data.validation import (
    parse_json_line,
    path_inside,
    pick_split,
    read_lines,
    undecoded_image,
    without_decoding,
)
from vladva_kit.embedder.identity import image_key
from vladva_kit.models.hub import is_hub_id
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SAVED_DATASET_FILES = ("dataset_info.json", "dataset_dict.json")  # written by `save_to_disk`


@dataclass(frozen=True)
class ImageRecord:
    """An image that is not decoded yet: its name in the source, and its metadata there."""

    name: str
    image: Image.Image | Path | bytes = field(repr=False)
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)


class DatasetImages(Sequence[ImageRecord]):
    """The rows of a dataset as images, read on access; the name of an image is its row number."""

    def __init__(self, dataset: datasets.Dataset) -> None:
        import datasets

        features = dataset.features
        self.image_columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        if not self.image_columns:
            raise BadInput(f"the dataset has no image column; its columns are {', '.join(features)}")
        self.column = "image" if "image" in self.image_columns else self.image_columns[0]
        self.dataset = without_decoding(dataset.with_format(None))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> ImageRecord:  # type: ignore[override]
        if not 0 <= row < len(self):
            raise IndexError(row)
        values = self.dataset[row]
        metadata = {name: value for name, value in values.items() if name not in self.image_columns}
        return ImageRecord(f"{row:09}", undecoded_image(values[self.column]), metadata)


def list_images(source: str | Path | datasets.Dataset, split: str = "train") -> Sequence[ImageRecord]:
    """List all images of a source, always in the same order.

        len(list_images("photos"))     # a folder of images, at any depth
        list_images("data_samples/emoji_pairs", "test")[0].metadata["short"]

    A source is a folder (with metadata.jsonl, or only images), a folder written by `save_to_disk`, a folder of
    parquet files or of webdataset tar files, a hub id, or a datasets.Dataset.
    Raises BadInput for any other source, and for a line of metadata.jsonl that names no image.
    """
    import datasets

    if not isinstance(source, str | Path):
        return DatasetImages(pick_split(source, split))
    folder = Path(source)
    if not folder.is_dir():
        if is_hub_id(str(source)):
            return DatasetImages(datasets.load_dataset(str(source), split=split))
        raise BadInput(f"{source} is neither a folder nor a hub id")
    if (folder / split).is_dir() and not (folder / "metadata.jsonl").is_file():
        folder = folder / split
    if (folder / "metadata.jsonl").is_file():
        return [_from_line(folder, raw, where) for where, raw in read_lines(folder / "metadata.jsonl")]
    if any((folder / name).is_file() for name in SAVED_DATASET_FILES):
        return DatasetImages(pick_split(datasets.load_from_disk(str(folder)), split))
    if (dataset := load_shards(folder)) is not None:
        return DatasetImages(dataset)
    images = [
        ImageRecord(path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    if not images:
        raise BadInput(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}), tar or parquet files")
    return images


def _from_line(folder: Path, raw: bytes, where: str) -> ImageRecord:
    metadata = parse_json_line(raw, where)
    path = path_inside(folder, metadata.get("file_name"), where)
    return ImageRecord(str(metadata["file_name"]), path, metadata)


def load_shards(folder: Path, streaming: bool = False) -> Any:
    """Load a folder of webdataset tar files or of parquet files as a dataset; None if it has neither."""
    import datasets

    for suffix, builder in ((".tar", "webdataset"), (".parquet", "parquet")):
        files = sorted(str(path) for path in folder.glob(f"*{suffix}"))
        if files:
            return datasets.load_dataset(builder, data_files={"train": files}, split="train", streaming=streaming)
    return None


def content_values(images: Sequence[ImageRecord]) -> dict[str, list[Any]]:
    """Return what `check_unchanged` compares, as JSON values of a shard: each image's key, its file's date and size.

    store.write(0, {"embeddings": vectors}, content_values(images))
    """
    return {"keys": [_key(image) for image in images], "stamps": [_stamp(image) for image in images]}


def check_unchanged(store: Store, shard: int, images: Iterable[ImageRecord]) -> None:
    """Check that a shard belongs to the images as they are now; a file of the same date and size is not read again.

    Raises ValueError naming the first image whose content differs. A shard without keys, of an older kit, passes.
    """
    with store.opened(shard) as file:
        if "keys" not in file.keys():  # noqa: SIM118  not a dict
            return
    keys, stamps = (store.read_json(shard, name) for name in ("keys", "stamps"))
    for image, key, stamp in zip(images, keys, stamps, strict=True):
        if (stamp is None or stamp != _stamp(image)) and key != (now := _key(image)):
            raise ValueError(
                f"{image.name} is not the image that {store.path(shard)} was made from (content {str(key)[:12]} there, "
                f"{str(now)[:12]} now): use another folder, or remove this file and run the same command again"
            )


def _key(image: ImageRecord) -> str | None:
    """Return the image's key; None if it cannot be read, which is reported where it is decoded."""
    try:
        return image_key(image.image)
    except (OSError, ValueError):
        return None


def _stamp(image: ImageRecord) -> list[int] | None:
    if not isinstance(image.image, Path) or not image.image.is_file():
        return None
    status = image.image.stat()
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def source_fingerprint(images: Sequence[ImageRecord]) -> str:
    """Hash a list of images to 16 hex digits: other images, or another order, give another fingerprint."""
    if isinstance(images, DatasetImages):  # reading millions of rows would take too long: the number and both ends
        names = [str(len(images))]
        for end in [images[row] for row in sorted({0, len(images) - 1})] if len(images) else []:
            content = hashlib.sha256(end.image).hexdigest() if isinstance(end.image, bytes) else str(end.image)
            names.append(f"{end.name} {end.metadata!r} {content}")
    else:
        names = [image.name for image in images]
    return hashlib.sha256("\n".join(names).encode("utf-8", "replace")).hexdigest()[:16]
