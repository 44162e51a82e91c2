"""List the images of a folder, an imagefolder or a dataset without decoding them; made for millions of images."""

from __future__ import annotations

import hashlib
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vladva_kit.data.store import Store
from vladva_kit.data.tars import index_tar, read_sample, sample_record, tar_samples
from vladva_kit.data.validation import (
    USUAL_SPLITS,
    hub_folders,
    is_hidden,
    metadata_file,
    parse_json_line,
    path_inside,
    pick_split,
    read_metadata,
    split_names,
    undecoded_image,
    visible_files,
    without_decoding,
)
from vladva_kit.embedder.identity import image_key
from vladva_kit.models.files import is_regular, printable
from vladva_kit.models.hub import is_hub_id
from vladva_kit.models.images import IMAGE_SUFFIXES, BadInput

if TYPE_CHECKING:
    import datasets

UNREADABLE_SUFFIXES = {".heic", ".heif", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw"}  # Pillow cannot open these
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", *sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
SAVED_DATASET_FILES = ("dataset_info.json", "dataset_dict.json")  # written by `save_to_disk`


@dataclass(frozen=True)
class ImageRecord:
    """An image that is not decoded yet: its name in the source, and its metadata there."""

    name: str
    image: Image.Image | Path | bytes | None = field(repr=False)  # None if the source has no image here
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)


class DatasetImages(Sequence[ImageRecord]):
    """The rows of a dataset as images, read on access; the name of an image is its row number."""

    def __init__(self, dataset: datasets.Dataset, roots: Sequence[Path] | None = None) -> None:
        """roots: the folders in which its images may be; None for a dataset that the user made."""
        import datasets

        self.roots, features = roots, dataset.features
        self.image_columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        named = image_columns(features)  # bytes or structs without the feature Image, as pandas and img2dataset write
        if not self.image_columns and not named:
            raise BadInput(f"the dataset has no image column; its columns are {', '.join(features)}")
        self.image_columns = self.image_columns or named
        self.columns = [name for name in named if name in self.image_columns] or self.image_columns
        self.dataset = without_decoding(dataset.with_format(None))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> ImageRecord:  # type: ignore[override]
        if not 0 <= row < len(self):
            raise IndexError(row)
        values = self.dataset[row]
        metadata = {name: value for name, value in values.items() if name not in self.image_columns}
        image = next((values[name] for name in self.columns if values[name] is not None), None)
        return ImageRecord(f"{row:09}", undecoded_image(image, self.roots), metadata)


class TarImages(Sequence[ImageRecord]):
    """The samples of webdataset tar files as images, read on access; the name of an image is its row number."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.samples = [(path, key, members) for path in files for key, members in index_tar(path)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> ImageRecord:  # type: ignore[override]
        if not 0 <= row < len(self):
            raise IndexError(row)
        sample = read_sample(*self.samples[row])
        image = sample.pop("image", None)
        return ImageRecord(f"{row:09}", image, sample_record(sample, f"{row:09}"))


class MetadataImages(Sequence[ImageRecord]):
    """The lines of a metadata.jsonl as images: all are checked at once, and each is read again on access.

    Only their positions are in memory, 16 bytes a line. Raises BadInput for a line that names no image in the folder,
    and on access if the file was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.stamp = path, _stamp(path)
        self.numbers, self.starts, self.known = array("q"), array("q"), set[Path]()
        with path.open("rb") as file:
            position = 3 if file.read(3) == b"\xef\xbb\xbf" else 0  # a byte-order mark
            file.seek(position)
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    self._record(number, raw)
                    self.numbers.append(number)
                    self.starts.append(position)
                position += len(raw)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        if _stamp(self.path) != self.stamp:
            raise BadInput(f"{self.path} was changed after its images were listed: list them again")
        with self.path.open("rb") as file:
            file.seek(self.starts[row])
            return self._record(self.numbers[row], file.readline())

    def _record(self, number: int, raw: bytes) -> ImageRecord:
        return _from_line(self.path.parent, raw, f"{self.path}, line {number}", self.known)


def image_columns(names: Iterable[str]) -> list[str]:
    """Return the columns named as images are, in upper or lower case: `image_columns(["txt", "JPG"]) == ["JPG"]`."""
    names = [name for name in names if name.lower() in IMAGE_COLUMNS]
    return sorted(names, key=lambda name: IMAGE_COLUMNS.index(name.lower()))


def list_images(source: str | Path | datasets.Dataset, split: str = "train") -> Sequence[ImageRecord]:
    """List all images of a source, always in the same order.

        len(list_images("photos"))     # a folder of images, at any depth
        list_images("data_samples/emoji_pairs", "test")[0].metadata["short"]

    A source is a folder (with metadata.jsonl or metadata.csv, or only images), a folder written by `save_to_disk`, a
    folder of parquet files or of webdataset tar files, a hub id, or a datasets.Dataset. Hidden files are left out. A
    folder `train` next to folders of other names is no split.
    Raises BadInput for any other source, and for a line of its metadata that names no image.
    """
    import datasets

    if not isinstance(source, str | Path):
        return DatasetImages(pick_split(source, split))
    folder = Path(source)
    if not folder.is_dir():
        if is_hub_id(str(source)):
            return DatasetImages(datasets.load_dataset(str(source), split=split), hub_folders())
        unpack = "; give the image's folder, or unpack the archive" if folder.is_file() else ""
        raise BadInput(f"{source} is neither a folder nor a hub id{unpack}")
    if _has_split(folder, split):
        folder = folder / split
    if (metadata := metadata_file(folder)) is not None:
        if metadata.suffix == ".jsonl":
            return MetadataImages(metadata)
        known: set[Path] = set()
        return [_from_line(folder, raw, where, known) for where, raw in read_metadata(metadata)]
    if any(is_regular(folder / name) for name in SAVED_DATASET_FILES):
        with damaged_dataset(folder):
            saved = datasets.load_from_disk(str(folder))
        return DatasetImages(pick_split(saved, split), (folder,))
    if tars := shard_files(folder, ".tar", split):
        return TarImages(tars)
    if parquets := shard_files(folder, ".parquet", split):
        return DatasetImages(_load_parquets(parquets), (folder,))
    return _list_files(folder)


def _has_split(folder: Path, split: str) -> bool:
    """Return whether a folder is divided into splits, and not into classes of which one is named "train"."""
    if metadata_file(folder) or not (folder / split).is_dir():
        return False
    return split not in USUAL_SPLITS or metadata_file(folder / split) is not None or not split_names(folder)[1]


def _list_files(folder: Path) -> list[ImageRecord]:
    """List the image files at any depth; warn about images in formats that Pillow cannot open."""
    unreadable = visible_files(folder, UNREADABLE_SUFFIXES - set(Image.registered_extensions()))
    if unreadable:
        count, first = len(unreadable), unreadable[0].relative_to(folder)
        warnings.warn(
            f"{folder}: {count} files such as {printable(str(first))} are left out: convert them to JPEG or PNG",
            stacklevel=3,
        )
    images = [ImageRecord(path.relative_to(folder).as_posix(), path) for path in visible_files(folder, IMAGE_SUFFIXES)]
    if not images:
        raise BadInput(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}), tar or parquet files")
    return images


def _from_line(folder: Path, raw: bytes, where: str, known: set[Path]) -> ImageRecord:
    metadata = parse_json_line(raw, where)
    try:
        path = path_inside(folder, metadata.get("file_name"), where, known=known)
    except BadInput as error:
        if not isinstance(error.__cause__, OSError):
            raise
        path = None  # its name is longer than a file's can be: a missing image, which may be skipped
    return ImageRecord(str(metadata["file_name"]), path, metadata)


def shard_files(folder: Path, suffix: str, split: str = "train") -> list[Path]:
    """List a folder's tar or parquet files; those of the split if their names begin with it.

        shard_files(Path("flickr30k"), ".parquet", "test")    # data/test-00000-of-00001.parquet, …

    Files are looked for in the folder itself, in its folder named as the split, and in `data`, as hub repositories
    have it. Hidden files are left out.
    """
    for place in (folder, folder / split, folder / "data"):
        files = [path for path in sorted(place.glob(f"*{suffix}")) if not is_hidden(path.name) and is_regular(path)]
        if files:
            return [path for path in files if path.name.startswith(tuple(f"{split}{end}" for end in "-_."))] or files
    return []


def load_shards(folder: Path, split: str = "train") -> Any:
    """Stream a folder of webdataset tar files or of parquet files; None if it has neither."""
    import datasets

    if tars := [str(path) for path in shard_files(folder, ".tar", split)]:
        # not the builder of `datasets`: it takes the columns of the first samples for all
        return datasets.IterableDataset.from_generator(tar_samples, gen_kwargs={"files": tars})
    parquets = shard_files(folder, ".parquet", split)
    return _load_parquets(parquets, streaming=True) if parquets else None


def _load_parquets(files: list[Path], streaming: bool = False) -> Any:
    import datasets

    data_files = {"train": [str(path) for path in files]}
    with damaged_dataset(files[0].parent):
        return datasets.load_dataset("parquet", data_files=data_files, split="train", streaming=streaming)


@contextmanager
def damaged_dataset(folder: Path) -> Iterator[None]:
    """Raise BadInput naming the folder for files that `datasets` cannot read: `with damaged_dataset(folder): …`."""
    try:
        yield
    except (MemoryError, BadInput):
        raise
    except Exception as error:  # pyarrow's and the library's own; it wraps the cause in "An error occurred"
        cause = " ".join(str(error.__cause__ or error).split())[:200]
        raise BadInput(f"the dataset in {folder} cannot be read ({cause}): download or write it again") from error


def content_values(images: Sequence[ImageRecord]) -> dict[str, list[Any]]:
    """Return what `check_unchanged` compares, as JSON values of a shard: each image's key, its file's date and size.

    store.write(0, {"embeddings": vectors}, content_values(images))
    """
    return {"keys": [_key(image) for image in images], "stamps": [_stamp(image.image) for image in images]}


def check_unchanged(store: Store, shard: int, images: Iterable[ImageRecord]) -> None:
    """Check that a shard belongs to the images as they are now; a file of the same date and size is not read again.

    Raises ValueError naming the first image whose content differs. A shard without keys, of an older kit, passes.
    """
    with store.opened(shard) as file:
        if "keys" not in file.keys():  # noqa: SIM118  not a dict
            return
    keys, stamps = (store.read_json(shard, name) for name in ("keys", "stamps"))
    for image, key, stamp in zip(images, keys, stamps, strict=True):
        if (stamp is None or stamp != _stamp(image.image)) and key != (now := _key(image)):
            raise ValueError(
                f"{image.name} is not the image that {store.path(shard)} was made from (content {str(key)[:12]} there, "
                f"{str(now)[:12]} now): use another folder, or remove this file and run the same command again"
            )


def _key(image: ImageRecord) -> str | None:
    """Return the image's key; None if it is missing or cannot be read, which is reported where it is decoded."""
    try:
        return None if image.image is None else image_key(image.image)
    except (OSError, ValueError):
        return None


def _stamp(image: Any) -> list[int] | None:
    """Return the date, size and number of a file, None for anything else."""
    if not isinstance(image, Path) or not is_regular(image):
        return None
    status = image.stat()
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def source_fingerprint(images: Sequence[ImageRecord]) -> str:
    """Hash a list of images to 16 hex digits: other images, or another order, give another fingerprint."""
    digest = hashlib.sha256()
    if isinstance(images, DatasetImages | TarImages):  # reading all rows would take too long: the number and both ends
        digest.update(str(len(images)).encode())
        for end in [images[row] for row in sorted({0, len(images) - 1})] if len(images) else []:
            content = hashlib.sha256(end.image).hexdigest() if isinstance(end.image, bytes) else str(end.image)
            digest.update(f"\n{end.name} {end.metadata!r} {content}".encode("utf-8", "replace"))
    else:
        for number, image in enumerate(images):  # not joined: millions of names
            digest.update(f"{chr(10) if number else ''}{image.name}".encode("utf-8", "replace"))
    return digest.hexdigest()[:16]
