"""Write files and folders atomically: completely or not at all."""

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
    """Write all files or none: `atomic_write({Path("runs/a.png"): png, Path("runs/a.svg"): svg})`.

    Each file is written under a temporary name in the same folder and renamed when all are complete, so an interruption
    leaves the old files in place. Missing folders are created. Raises OSError if writing fails.
    """
    tmp_files = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, tmp_file in tmp_files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            tmp_file.write_bytes(files[path])
        for path, tmp_file in tmp_files.items():
            os.replace(tmp_file, path)
    finally:
        for tmp_file in tmp_files.values():
            tmp_file.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> Path:
    """Write standard JSON atomically and return the path: `write_json("runs/demo/results.json", results)`.

    Arrays and tensors become lists, paths strings and dataclasses objects; NaN and infinity, which JSON lacks, become
    null. With `indent=None` the file has one line. Raises TypeError, naming the element, for any other type.
    """
    path = Path(path)
    atomic_write({path: f"{json_text(value, indent)}\n".encode()})
    return path


def json_text(value: Any, indent: int | None = 1) -> str:
    """Convert a value to standard JSON as `write_json` does: `print(json_text(comparison))`."""
    return json.dumps(_jsonable(value, "value"), indent=indent, ensure_ascii=False, allow_nan=False)


def _jsonable(value: Any, name: str) -> Any:
    """Convert a value to JSON types; `name` is its expression in an error message."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner, f"{name}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner, f"{name}[{index}]") for index, inner in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field: _jsonable(getattr(value, field), f"{name}.{field}") for field in value.__dataclass_fields__}
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "tolist"):  # numpy and torch, including scalars
        return _jsonable(value.tolist(), name)
    raise TypeError(
        f"{name} is of type {type(value).__name__}, which JSON lacks; pass numbers, strings, lists or dicts"
    )


def json_line(record: Mapping[str, Any]) -> str:
    """Write a record as a line of JSON; half characters, as in a file name that is not UTF-8, are escaped."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(record, allow_nan=False)
    return f"{line}\n"


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder and move its files to `folder` when the block ends; none are moved if it fails.

    with atomic_dir(Path("my-adapter")) as tmp_dir: (tmp_dir / "config.json").write_text("{}")
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as tmp_dir:
        yield Path(tmp_dir)
        for file in sorted(path for path in Path(tmp_dir).rglob("*") if path.is_file()):
            target = folder / file.relative_to(tmp_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o644)  # temporary files are readable by their owner only
            os.replace(file, target)
