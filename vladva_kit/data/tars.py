"""Read webdataset tar files: a sample is the files next to each other whose names agree up to the first dot."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vladva_kit.data.validation import is_hidden, parse_json_line
from vladva_kit.models.images import IMAGE_SUFFIXES, BadInput

TEXT_FIELDS = ("txt", "text", "caption", "cap")
_NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")  # folders and stem, then the field, which may hold dots
Members = Mapping[str, tuple[int, int]]  # by field: offset and size in bytes


def index_tar(path: str | Path) -> Iterator[tuple[str, Members]]:
    """Yield the key of each sample and where its files are, reading headers only: `next(index_tar("00000.tar"))`.

    Fields are in lower case; hidden files, as macOS writes them, are left out. Raises BadInput for a damaged tar file.
    """
    key, members = "", dict[str, tuple[int, int]]()
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                match = _NAME.match(entry.name)
                if match is None or not entry.isfile() or is_hidden(entry.name):
                    continue
                if match[1] != key and members:
                    yield key, members
                    members = {}
                key = match[1]
                members.setdefault(match[2].lower(), (entry.offset_data, entry.size))
    except (tarfile.TarError, OSError) as error:
        raise BadInput(f"{path} is not a complete, uncompressed tar file ({error}); make it again") from error
    if members:
        yield key, members


def read_sample(path: str | Path, key: str, members: Members) -> dict[str, Any]:
    """Read a sample to {"__key__", "__url__", "image", "json", "txt"}, the last three as bytes where it has them.

    Of several images, such as `0001.jpg` and `0001.mask.png`, the one with the shortest field is taken.
    """
    chosen: dict[str, tuple[int, int]] = {}
    for field in sorted(members, key=lambda field: (field.count("."), len(field))):
        suffix = field.rpartition(".")[2]
        kind = "image" if f".{suffix}" in IMAGE_SUFFIXES else "txt" if suffix in TEXT_FIELDS else suffix
        if kind in ("image", "json", "txt"):
            chosen.setdefault(kind, members[field])
    sample: dict[str, Any] = {"__key__": key, "__url__": str(path)}
    with open(path, "rb") as file:
        for kind, (offset, size) in chosen.items():
            file.seek(offset)
            sample[kind] = file.read(size)
    return sample


def tar_samples(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the samples of several tar files as `read_sample` does."""
    for path in files:
        for key, members in index_tar(path):
            yield read_sample(path, key, members)


def sample_record(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a row's captions and other columns in one record; `json` is merged into it, `txt` is the short caption.

        sample_record({"__key__": "0001", "json": {"long": "…"}, "txt": "a dog"}, "sample 0001")["short"]    # "a dog"

    Raises BadInput for JSON that is not an object and for text that is not UTF-8.
    """
    record = dict(row)
    content = record.pop("json", None)
    if isinstance(content, bytes | str):
        content = parse_json_line(content.encode() if isinstance(content, str) else content, f"{where}, its JSON")
    record |= content or {}
    text = row.get("txt")
    if isinstance(text, bytes):
        try:
            text = record["txt"] = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadInput(f"{where}: its text is not UTF-8 ({error}); save it as UTF-8") from error
    if text and not record.get("short"):
        record["short"] = text
    return record
