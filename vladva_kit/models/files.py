"""Files that are written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def atomic_write(files: Mapping[Path, bytes]) -> None:
    """Write files all whole or none: `atomic_write({Path("runs/a.png"): png, Path("runs/a.svg"): svg})`.

    Each is written under another name beside its own and takes its place when all are complete, so an interruption
    leaves what was there before. Missing folders are made. Raises OSError where the disk refuses.
    """
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, part in beside.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(files[path])
        for path, part in beside.items():
            os.replace(part, path)
    finally:
        for part in beside.values():
            part.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> Path:
    """Write JSON that any reader takes, whole or not at all: `write_json("runs/demo/results.json", results)`.

    Arrays and tensors become lists, paths texts, dataclasses objects; NaN and infinity, which JSON lacks, become null.
    With `indent=None` it is one line. Returns the path. Raises TypeError for what has no such form, naming its place.
    """
    path = Path(path)
    text = json.dumps(_plain(value, "value"), indent=indent, ensure_ascii=False, allow_nan=False)
    atomic_write({path: f"{text}\n".encode()})
    return path


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, f"{place}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{place}[{index}]") for index, inner in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name), f"{place}.{name}") for name in value.__dataclass_fields__}
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "tolist"):  # numpy and torch, scalars too
        return _plain(value.tolist(), place)
    raise TypeError(f"{place} is of type {type(value).__name__}, which JSON lacks; give numbers, texts, lists or dicts")


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to fill; its files take their places at the end of the block, none if it fails.

    with atomic_dir(Path("my-adapter")) as beside: (beside / "config.json").write_text("{}")
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside:
        yield Path(beside)
        for file in sorted(path for path in Path(beside).rglob("*") if path.is_file()):
            place = folder / file.relative_to(beside)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o644)  # temporary files are their owner's alone
            os.replace(file, place)
