"""Read benchmark datasets of the hub: their columns, their rows and their files."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vladva_kit.data.hub import explain_hub_errors
from vladva_kit.data.validation import undecoded_rows
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

DataSource: TypeAlias = "str | Path | datasets.Dataset"  # a path, a hub id, a Dataset or a DatasetDict


def find_columns(dataset: datasets.Dataset, **names: Sequence[str]) -> list[str]:
    """Return the dataset's name of each needed column: `find_columns(dataset, image=("image", "img"))` -> ["img"].

    Raises BadInput if none of a column's possible names is there.
    """
    found = [name for options in names.values() for name in [n for n in options if n in dataset.column_names][:1]]
    if len(found) < len(names):
        raise BadInput(
            f"the dataset has the columns {', '.join(dataset.column_names)}; {', '.join(names)} are needed: rename "
            f"them with dataset.rename_columns({{'old': '{next(iter(names))}', …}})"
        )
    return found


def dataset_entries(
    dataset: datasets.Dataset, images: Sequence[str], indices: Sequence[int] | None = None
) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """Yield each row with its location, image columns not decoded: ("dataset row 0", ("0", row))."""
    indices = range(len(dataset)) if indices is None else indices
    for index, row in zip(indices, undecoded_rows(dataset.select(indices), images), strict=True):
        yield f"dataset row {index}", (str(index), row)


def hub_file(repo_id: str, names: Sequence[str]) -> Path:
    """Download the first of these files that a hub dataset has: `hub_file("facebook/winoground", ["examples.jsonl"])`.

    Raises BadInput if it is gated, missing or unreachable.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    *others, last = names
    with explain_hub_errors(repo_id):
        for name in others:
            with suppress(RemoteEntryNotFoundError):  # another layout of the same dataset
                return Path(hf_hub_download(repo_id, name, repo_type="dataset"))
        return Path(hf_hub_download(repo_id, last, repo_type="dataset"))


def winoground_folder(repo_id: str = "facebook/winoground") -> Path:
    """Download Winoground and unpack it once: a folder with `examples.jsonl` and `images/`.

    Raises BadInput as `hub_file` does; the official dataset is gated.
    """
    lines = hub_file(repo_id, ["data/examples.jsonl", "examples.jsonl"])
    archive = hub_file(repo_id, ["data/images.zip", "images.zip"])
    revision = archive.parent.name if archive.parent.name != "data" else archive.parent.parent.name
    folder = Path.home() / ".cache" / "vladva_kit" / "hub" / repo_id.replace("/", "--") / revision
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking.") as temporary:
            complete = Path(temporary) / "complete"
            (complete / "images").mkdir(parents=True)
            (complete / "examples.jsonl").write_bytes(lines.read_bytes())
            try:
                with zipfile.ZipFile(archive) as opened:
                    for entry in opened.infolist():  # folders inside it are dropped: nothing is written outside
                        name = Path(entry.filename).name
                        if not entry.is_dir() and not name.startswith("."):
                            (complete / "images" / name).write_bytes(opened.read(entry))
            except zipfile.BadZipFile as error:
                raise BadInput(f"{archive}: not a complete zip file ({error}); delete and download it again") from error
            if not folder.is_dir():  # another process may have finished first
                os.replace(complete, folder)
    return folder
