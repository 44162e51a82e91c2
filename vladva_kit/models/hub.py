"""Download from the Hugging Face hub, with one-sentence errors that name the fix."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # what from_pretrained reads; no pickles
ADAPTER_FILES = ("vladva.json", "provenance.json", "adapter_config.json", "adapter_model.safetensors")
KIND_FILES = (
    "vladva.json",
    "adapter_config.json",
    "modules.json",
    "open_clip_config.json",
    "config.json",
)  # tell apart


class HubError(OSError):
    """A download from the hub failed; the message names the repository, the cause and the fix."""


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a hub id: `is_hub_id("Qwen/Qwen2-VL-2B-Instruct")`."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def download(name: str, files: Sequence[str] = MODEL_FILES, **options: Any) -> Path:
    """Download a hub repository unless it is cached, and return its folder.

        download("llava-hf/llava-1.5-7b-hf")
        download("me/my-adapter", ADAPTER_FILES, revision="v2")

    Subfolders are skipped: they hold other formats. A call after an interrupted download fetches the missing files.
    options: keywords of `snapshot_download`. Raises HubError if the hub is unreachable, denies access or lacks the
    repository, or if the disk is full.
    """
    from huggingface_hub import snapshot_download

    skipped = ["*/*", "consolidated*.safetensors"]
    with friendly_hub_errors(name):
        return Path(snapshot_download(name, allow_patterns=list(files), ignore_patterns=skipped, **options))


@contextmanager
def friendly_hub_errors(name: str) -> Iterator[None]:
    """Convert hub errors inside the block to HubError: `with friendly_hub_errors("me/clip"): …`."""
    try:
        yield
    except Exception as error:  # from huggingface_hub, httpx or the disk; any other error is re-raised unchanged
        explanation = _explain(name, list(_causes(error)))
        if explanation is None:
            raise
        raise HubError(explanation) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the chain of errors that caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _explain(name: str, errors: list[BaseException]) -> str | None:
    """Return one sentence with cause and fix, or None for an error that is not the hub's."""
    from huggingface_hub import constants

    # by class name: the hub's client has changed its HTTP library more than once
    kinds = {kind.__name__ for error in errors for kind in type(error).__mro__}
    if any(getattr(error, "errno", None) == errno.ENOSPC for error in errors):
        kinds.add("DiskFull")
    if any("Consistency check failed" in str(error) for error in errors):
        kinds.add("TransportError")
    cache, offline = constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE
    explanations = (
        ({"DiskFull"}, f"no disk space is left for '{name}' in {cache}: free some, or set HF_HOME to a folder on "
         "another disk; complete files are kept"),
        ({"GatedRepoError"}, f"'{name}' is gated: accept its terms at https://huggingface.co/{name}, then log in with "
         "`hf auth login` and retry"),
        ({"RevisionNotFoundError"}, f"'{name}' has no such revision: pass one that "
         f"https://huggingface.co/{name}/tree/main lists"),
        ({"RepositoryNotFoundError"}, f"the hub has no model '{name}', or it is private: correct the name, or log in "
         "with `hf auth login` as a user with access"),
        ({"OfflineModeIsEnabled", "LocalEntryNotFoundError"} if offline else set(), "HF_HUB_OFFLINE is set and "
         f"'{name}' is not completely cached in {cache}: unset it once to download, or pass a local folder"),
        ({"LocalEntryNotFoundError", "ConnectError", "ConnectTimeout"}, f"the hub is unreachable and '{name}' is not "
         f"completely cached in {cache}: check the connection and retry, or pass a local folder"),
        ({"TransportError", "ConnectionError", "TimeoutError"}, f"the download of '{name}' was interrupted: retry; "
         "complete files are kept"),
        ({"HfHubHTTPError"}, f"the hub refused '{name}': {(str(errors[0]).splitlines() or [''])[0]}; retry later"),
    )  # fmt: skip
    return next((explanation for names, explanation in explanations if names & kinds), None)
