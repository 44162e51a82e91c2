"""Open datasets of the Hugging Face hub; errors say what to do, and no file outside a repository is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.data.validation import pick_split
from vladva_kit.models.hub import is_hub_id
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets


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

    with explain_hub_errors(source):
        return datasets.load_dataset(source, split=split)


def check_repository_image(value: Any, where: str) -> None:
    """Check that an undecoded image of a hub dataset is content, or a file that was downloaded with the repository.

        check_repository_image({"bytes": b"…", "path": "dog.jpg"}, "dataset row 0")

    Otherwise a dataset could name any file of this computer, or an address to report to. Raises BadInput.
    """
    import datasets
    from huggingface_hub import constants

    path = value if isinstance(value, str) else value.get("path") if isinstance(value, dict) else None
    if path is None or (isinstance(value, dict) and value.get("bytes")):
        return
    place = path.rpartition("::")[2]  # of the archive in zip://dog.jpg::pairs.zip
    caches = (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)
    cached = any(Path(place).resolve().is_relative_to(Path(cache).resolve()) for cache in caches)
    if not (place.startswith("hf://") if "://" in place else cached):
        raise BadInput(
            f"{where}: the image {path!r} is not part of the hub dataset, so it is not read: download the images, "
            "write a metadata.jsonl next to them, and give that folder"
        )


@contextmanager
def explain_hub_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of the hub into one sentence that says what to do: `with explain_hub_errors("a/b"): …`."""
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
        elif reason.startswith("Unknown split"):
            advice = f"has no such split ({reason}); give one of these"
        elif not isinstance(error, missing):
            advice = f"cannot be loaded by datasets ({reason}); {download}"
        elif isinstance(error, errors.GatedRepoError) or "gated" in str(error):  # datasets has no class for it
            advice = f"is gated: accept its terms at {page}, then log in with `hf auth login`, and run this again"
        else:
            advice = f"is not a local folder, and not on the hub ({reason}); correct the id, see {page}"
        raise BadInput(f"{repo_id} {advice}") from error
