"""Write files and folders atomically: completely or not at all."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise OSError with one sentence if the block cannot write to `path`, whatever the library raised.

    with write_errors(Path("runs/a")): torch.save(state, "runs/a/optimizer.pt")
    """
    try:
        yield
    except Exception as error:
        # torch.save raises RuntimeError, and safetensors an exception of its own
        failed = isinstance(error, OSError) or any(sign in str(error) for sign in _WRITE_FAILED)
        if not failed or "cannot be written" in str(error):
            raise
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        fix = "free space, or choose a folder that exists and is writable"
        raise OSError(getattr(error, "errno", None), f"{path} cannot be written ({reason}): {fix}") from error


_WRITE_FAILED = ("PytorchStreamWriter", "Parent directory", "unexpected pos", "Error while serializing", "I/O error")


def atomic_write(files: Mapping[Path, bytes]) -> None:
    """Write all files or none: `atomic_write({Path("runs/a.png"): png, Path("runs/a.svg"): svg})`.

    Each file is written under a temporary name in the same folder and renamed when all are complete, so an interruption
    leaves the old files in place. Missing folders are created. Raises OSError in one sentence if writing fails; the old
    files are then unchanged.
    """
    tmp_files = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    old_files = {path: path.with_name(f".{path.name}.{os.getpid()}.old") for path in files if len(files) > 1}
    replaced: list[Path] = []
    try:
        for path, tmp_file in tmp_files.items():
            with write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                tmp_file.write_bytes(files[path])
        for path, old_file in old_files.items():
            with suppress(OSError):  # there is no old file, or the file system has no links
                os.link(path, old_file)
        for path, tmp_file in tmp_files.items():
            with write_errors(path):
                os.replace(tmp_file, path)
            replaced.append(path)
    except BaseException:
        for path in replaced:
            if old_files and old_files[path].exists():
                os.replace(old_files[path], path)
            elif old_files:
                path.unlink(missing_ok=True)
        raise
    finally:
        for leftover in (*tmp_files.values(), *old_files.values()):
            with suppress(OSError):  # the folder may be gone: what was raised above says so
                leftover.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> Path:
    """Write standard JSON atomically and return the path: `write_json("runs/demo/results.json", results)`.

    Arrays and tensors become lists, paths strings and dataclasses objects; NaN and infinity, which JSON lacks, become
    null. With `indent=None` the file has one line. Raises TypeError, naming the element, for any other type.
    """
    path = Path(path)
    atomic_write({path: json_bytes(value, indent)})
    return path


def json_text(value: Any, indent: int | None = 1) -> str:
    """Convert a value to standard JSON as `write_json` does: `print(json_text(comparison))`."""
    return _dumps(_jsonable(value, "value"), indent)


def json_bytes(value: Any, indent: int | None = 1) -> bytes:
    """Return what `write_json` writes, for files that change together: `atomic_write({path: json_bytes(results)})`."""
    return f"{json_text(value, indent)}\n".encode()


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


def read_object(path: Path, error: type[ValueError] = ValueError) -> dict[str, Any]:
    """Read a JSON object: `read_object(Path("my-adapter/vladva.json"), BadAdapter)["base"]`.

    Raises `error` in one sentence if the file cannot be read, is not JSON or not an object, or repeats a key.
    """
    try:
        if not is_regular(path):
            raise ValueError("it is missing, or not a regular file")
        value = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=without_repeats)
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
        return value
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"{path} is not a JSON object ({reason}): write or download it again") from reason


class RepeatedKey(ValueError):
    """A key that occurs twice in a JSON object, of which `json` silently takes the last value."""


def without_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dict for `json.loads(text, object_pairs_hook=without_repeats)`; raise RepeatedKey."""
    if len(found := dict(items)) < len(items):
        keys = [key for key, _ in items]
        repeated = sorted({key for key in keys if keys.count(key) > 1}) if len(keys) < 1000 else ["a key"]
        raise RepeatedKey(f"{', '.join(repeated)} occurs twice; each key must be unique")
    return found


def is_regular(path: Path | str) -> bool:
    """Return whether a path is a file that can be read to its end: not a pipe, a device or a name too long to exist."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def printable(text: str) -> str:
    """Escape what would act on a terminal or break XML: `printable("\\x1b[31mred.png")` has no escape character.

    These are control characters but tab and line feed, marks that reorder text, and halves of characters.
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def json_line(record: Mapping[str, Any]) -> str:
    """Write a record as a line of JSON; half characters, as in a file name that is not UTF-8, are escaped."""
    return f"{_dumps(record)}\n"


def _dumps(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent, allow_nan=False)
    return text


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files become those of `folder` at once when the block ends; none if it fails.

        with atomic_dir(Path("my-adapter")) as tmp_dir: (tmp_dir / "config.json").write_text("{}")

    Other files in `folder` stay. A reader sees all old files or all new ones, also after a kill, where the system can
    exchange two folders in one call. Raises OSError in one sentence if writing fails.
    """
    folder = folder.resolve()  # of a link, the folder that it names is replaced
    with write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", ignore_cleanup_errors=True
        ) as tmp:
            new = Path(tmp) / folder.name
            new.mkdir()
            yield new
            for file in new.rglob("*"):
                if file.is_file():
                    file.chmod(0o644)  # temporary files may be readable by their owner only
            if folder.is_dir() and any(folder.iterdir()):
                _exchange(new, folder)
            else:
                os.replace(new, folder)


def _exchange(new: Path, folder: Path) -> None:
    """Let `folder` hold the new files and its other old ones: in one call if the system has one, or file by file."""
    files = [path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file()]
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    # links stay where they are, and a process's current folder must not be moved away
    movable = not any(path.is_symlink() for path in folder.rglob("*")) and not Path.cwd().is_relative_to(folder)
    if libc is not None and hasattr(libc, "renameat2") and movable:
        with suppress(OSError):
            for old in sorted(folder.rglob("*")):
                target = new / old.relative_to(folder)
                if old.is_dir():
                    target.mkdir(exist_ok=True)
                elif not target.exists():
                    os.link(old, target)
            here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
            if libc.renameat2(here, os.fsencode(new), here, os.fsencode(folder), exchange) == 0:
                return
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / file, folder / file)


LOCK = ".lock"  # in the folder of a run; empty when the run has ended


@contextmanager
def folder_lock(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep other processes from a folder while the block runs; yield a function that checks that it is still there.

        with folder_lock(Path("runs/a")) as check: ...    # check() raises OSError if the folder was removed or renamed

    The lock file names its owner. It survives a crash, and a later run takes it over if the process has ended.
    Raises ValueError naming the owner if it is alive or on another machine.
    """
    path = folder / LOCK
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _take(path, owner)

    def check() -> None:
        if _read_owner(path) != owner:
            raise FileNotFoundError(f"{folder} was removed, renamed or taken over during the run: nothing is written")

    try:
        yield check
    finally:
        with suppress(OSError):
            if _read_owner(path) == owner:
                path.write_text("")


def _take(path: Path, owner: Mapping[str, Any]) -> None:
    with write_errors(path), path.open("a") as mutex:
        with suppress(ImportError):  # Windows has no fcntl: there the check and the write are two steps
            import fcntl

            fcntl.flock(mutex, fcntl.LOCK_EX)
        other = _read_owner(path)
        if other is not None and _is_alive(other):
            started = time.strftime("%F %T", time.localtime(other["started"]))
            raise ValueError(
                f"{path.parent} is in use by process {other['pid']} on {other['host']}, started at {started}: wait for "
                f"it, use another folder, or, if it has ended, remove {path}"
            )
        path.write_text(json.dumps(owner))


def _read_owner(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # free, or cut off by a crash
        return None


def _started(pid: int) -> float | None:
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _is_alive(owner: Mapping[str, Any]) -> bool:
    """Return whether a lock's process may still run; a process of the same number that started later is another."""
    if owner["host"] != socket.gethostname():
        return True
    started = _started(owner["pid"])
    return started is not None and abs(started - owner["started"]) < 5  # the system's clock may be corrected
