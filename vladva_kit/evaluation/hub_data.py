"""Open benchmark datasets: from the hub, or as passed. Errors of the hub explain what to do, as for gated datasets."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vladva_kit.data.validation import pick_split, undecoded_rows
from vladva_kit.models.hub import is_hub_id
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

DataSource: TypeAlias = "str | Path | datasets.Dataset"  # a path, a hub id, a Dataset or a DatasetDict


def is_on_hub(source: Any) -> bool:
    """Tell whether a source is the id of a hub dataset, not an existing path: `is_on_hub("facebook/winoground")`."""
    return isinstance(source, str) and is_hub_id(source) and not Path(source).exists()


def open_dataset(source: Any, split: str) -> datasets.Dataset | None:
    """Open a split of a hub id, Dataset or DatasetDict; return None for a path: `open_dataset("aro/", "test")`.

    Raises BadInput for a source of another type or without the split, and for a hub dataset that is gated, missing,
    unreachable or needs a loading script.
    """
    if not is_on_hub(source):
        return None if isinstance(source, str | Path) else pick_split(source, split)
    import datasets

    with _explain_errors(source):
        return datasets.load_dataset(source, split=split)


def find_columns(dataset: datasets.Dataset, **names: Sequence[str]) -> list[str]:
    """Return the dataset's name of each needed column: `find_columns(dataset, image=("image", "img"))` -> ["img"].

    Raises BadInput if none of a column's possible names is there.
    """
    found = [next((name for name in options if name in dataset.column_names), None) for options in names.values()]
    if None in found:
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
    with _explain_errors(repo_id):
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


@contextmanager
def _explain_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of the hub into one sentence that says what to do."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repo_id}"
    download = f"run `hf download {repo_id} --repo-type dataset --local-dir FOLDER`, and give FOLDER as the data"
    unreachable = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)
    missing = (errors.RepositoryNotFoundError, errors.EntryNotFoundError, DatasetNotFoundError)
    try:
        yield
    except (*unreachable, *missing, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, unreachable):
            advice = f"is not a local folder, and the hub is unreachable; on a machine with a connection, {download}"
        elif not isinstance(error, missing):
            advice = f"cannot be loaded by datasets ({reason}); {download}"
        elif isinstance(error, errors.GatedRepoError) or "gated" in str(error):  # datasets has no class for it
            advice = f"is gated: accept its terms at {page}, then log in with `hf auth login`, and run this again"
        else:
            advice = f"is not a local folder, and not on the hub ({reason}); correct the id, see {page}"
        raise BadInput(f"{repo_id} {advice}") from error
