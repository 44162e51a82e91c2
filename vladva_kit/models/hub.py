"""Fetching from the hub; what goes wrong there is said in one sentence, with the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# all that from_pretrained reads, and no pickled weights
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
ADAPTER_FILES = ("*.json", "adapter_model.safetensors")


class HubError(OSError):
    """Something could not be download from the hub; the message says what, why and the way out."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: `is_hub_id("Qwen/Qwen2-VL-2B-Instruct")`."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def download(name: str, files: Sequence[str] = MODEL_FILES, **download: str | None) -> Path:
    """The folder of a hub repository in the cache, downloaded where it is not there yet.

        download("llava-hf/llava-1.5-7b-hf")
        download("me/my-adapter", ADAPTER_FILES, revision="v2")

    Folders inside the repository are left out: they hold other formats. After an interrupted download the next call
    fetches the files that are missing. Raises HubError when the hub is out of reach, refuses, has no such
    repository, or the disk is full.
    """
    from huggingface_hub import snapshot_download

    with friendly_hub_errors(name):
        folder = snapshot_download(
            name, allow_patterns=list(files), ignore_patterns=["*/*", "consolidated*.safetensors"], **download
        )
    return Path(folder)


@contextmanager
def friendly_hub_errors(name: str) -> Iterator[None]:
    """What goes wrong at the hub inside the block becomes HubError: `with friendly_hub_errors("me/clip"): …`."""
    try:
        yield
    except Exception as error:  # of huggingface_hub, httpx or the disk; what is none of theirs goes on as it is
        sentence = _sentence(name, list(_chain(error)))
        if sentence is None:
            raise
        raise HubError(sentence) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _sentence(name: str, errors: list[BaseException]) -> str | None:
    from huggingface_hub import constants

    # by their names: the hub's client has changed its library for HTTP more than once
    kinds = {kind.__name__ for error in errors for kind in type(error).__mro__}
    cache = constants.HF_HUB_CACHE
    if any(getattr(error, "errno", None) == errno.ENOSPC for error in errors):
        return (
            f"no space is left for '{name}' in {cache}: free some, or set HF_HOME to a folder on another disk; "
            "files that came whole are kept"
        )
    if "GatedRepoError" in kinds:
        return (
            f"'{name}' is gated: accept its terms at https://huggingface.co/{name}, then log in with `hf auth login` "
            "and call again"
        )
    if "RevisionNotFoundError" in kinds:
        return f"'{name}' has no such revision: give one that https://huggingface.co/{name}/tree/main lists"
    if "RepositoryNotFoundError" in kinds:
        return (
            f"the hub has no model '{name}', or it is private: correct the name, or log in with `hf auth login` as one "
            "who may read it"
        )
    if constants.HF_HUB_OFFLINE and kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError"}:
        return (
            f"HF_HUB_OFFLINE is set and '{name}' is not whole in {cache}: unset it once to download, or give a folder"
        )
    if kinds & {"LocalEntryNotFoundError", "ConnectError", "ConnectTimeout"}:
        return (
            f"the hub is out of reach and '{name}' is not whole in {cache}: check the connection and call again, "
            "or give a folder"
        )
    broken = kinds & {"TransportError", "ConnectionError", "TimeoutError"}
    if broken or any("Consistency check failed" in str(error) for error in errors):
        return f"the download of '{name}' was interrupted: call again, files that came whole are kept"
    if "HfHubHTTPError" in kinds:
        return f"the hub refused '{name}': {str(errors[0]).splitlines()[0]}; call again later"
    return None
