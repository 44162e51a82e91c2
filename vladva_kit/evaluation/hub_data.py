"""Benchmarks from the hub: by `datasets` where its layout allows, else its own files; the gated ones say the way in."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets


def is_hub_id(source: Any) -> bool:
    """Whether a source names a dataset on the hub: `is_hub_id("facebook/winoground")`; a path that exists does not."""
    name = str(source)
    if not isinstance(source, str) or Path(name).exists():
        return False
    owner, slash, repo = name.partition("/")
    return bool(owner and slash and repo) and "/" not in repo and not owner.startswith((".", "~"))


def hub_dataset(repo_id: str, split: str, subset: str | None = None) -> datasets.Dataset:
    """A split of a dataset on the hub: `hub_dataset("gowitheflow/ARO-Visual-Relation", "test")`.

    Raises BadInput, with the step to take, where it is gated, missing, out of reach or made by a script.
    """
    import datasets

    with _explained(repo_id):
        return datasets.load_dataset(repo_id, subset, split=split)


def hub_file(repo_id: str, names: Sequence[str]) -> Path:
    """The first of a dataset's own files that exists: `hub_file("facebook/winoground", ["data/examples.jsonl"])`.

    Raises BadInput, with the step to take, where it is gated, missing or out of reach.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with _explained(repo_id):
        for name in names[:-1]:
            try:
                return Path(hf_hub_download(repo_id, name, repo_type="dataset"))
            except RemoteEntryNotFoundError:  # another layout of the same dataset
                continue
        return Path(hf_hub_download(repo_id, names[-1], repo_type="dataset"))


def winoground_folder(repo_id: str = "facebook/winoground", cache_dir: str | Path | None = None) -> Path:
    """A folder with Winoground's `examples.jsonl` and `images/`, download from the hub and unpacked once.

    Raises BadInput as `hub_file` does; the official dataset is gated.
    """
    lines = hub_file(repo_id, ["data/examples.jsonl", "examples.jsonl"])
    packed = hub_file(repo_id, ["data/images.zip", "images.zip"])
    revision = packed.parent.name if packed.parent.name != "data" else packed.parent.parent.name
    home = Path(cache_dir or Path.home() / ".cache" / "vladva_kit")
    folder = home / "hub" / repo_id.replace("/", "--") / revision
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking.") as beside:
            whole = Path(beside) / "whole"
            whole.mkdir()
            (whole / "examples.jsonl").write_bytes(lines.read_bytes())
            _unpack(packed, whole / "images")
            if not folder.is_dir():  # another process may have finished first
                os.replace(whole, folder)
    return folder


def _unpack(packed: Path, folder: Path) -> None:
    """All pictures of a zip, side by side; folders inside it are dropped, and nothing can land outside."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(packed) as archive:
            for entry in archive.infolist():
                name = Path(entry.filename).name
                if not entry.is_dir() and not name.startswith("."):
                    (folder / name).write_bytes(archive.read(entry))
    except zipfile.BadZipFile as error:
        raise BadInput(f"{packed}: no whole zip ({error}); delete it and fetch it again") from error


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """The hub's error_list as one sentence that says what to do."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repo_id}"
    gated = f"{repo_id} is gated: accept its terms at {page}, then log in with `hf auth login`, and run this again"
    away = (
        f"{repo_id} is no folder here, and the hub is out of reach; where there is a connection, run "
        f"`hf download {repo_id} --repo-type dataset --local-dir FOLDER`, and give FOLDER as the data"
    )
    try:
        yield
    except errors.GatedRepoError as error:
        raise BadInput(gated) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise BadInput(away) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, DatasetNotFoundError) as error:
        if "gated" in str(error):  # how datasets tells it
            raise BadInput(gated) from error
        raise BadInput(
            f"{repo_id} is no folder here, and not found on the hub ({_first_line(error)}); correct the id, see {page}"
        ) from error
    except (RuntimeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{repo_id} cannot be loaded by datasets ({_first_line(error)}); fetch its files with "
            f"`hf download {repo_id} --repo-type dataset --local-dir FOLDER`, and give FOLDER as the data"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
