"""Store results in a folder of shards: written atomically, resumed after an interruption, refused on a mismatch.

Embedding shards, image features, cached embeddings and generated captions all use this one store.

    folder/manifest.json                what the shards belong to: source, sizes, and the model's identity
    folder/shard-000000.safetensors     tensors, and JSON values stored as bytes in the same file
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vladva_kit.models.files import atomic_write, read_object, write_json

MANIFEST = "manifest.json"
MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Store:
    """A folder of shards. A shard is named by a number (a fixed row range) or by a string.

    store = Store.open("runs/embeddings", {"model": "emoji-llava", "rows": 1000})
    store.write(0, {"embeddings": vectors}, {"names": ["cat.png", "dog.png"]})
    store.read(0)["embeddings"], store.read_json(0, "names")
    0 in store, 1 in store                                       # True, False
    """

    folder: Path
    prefix: str = "shard"

    @classmethod
    def open(cls, folder: str | Path, manifest: Mapping[str, Any], prefix: str = "shard") -> Store:
        """Create the folder and its manifest, or reopen it if the manifest is the same.

        Raises ValueError naming every value that differs, before anything is written, or if the folder holds shards but
        no manifest.
        """
        store = cls(Path(folder), prefix)
        manifest = json.loads(json.dumps(manifest))  # as it is read back: tuples become lists
        names = store.names()  # before the manifest: another rank may write it and a shard in between
        if (store.folder / MANIFEST).is_file():
            if differing := differences(read_manifest(folder), manifest):
                raise ValueError(
                    f"{folder} holds results of something else ({'; '.join(differing)}): "
                    "use another folder or remove this one"
                )
        elif names:
            raise ValueError(f"{folder} holds shards but no {MANIFEST}: use another folder or remove this one")
        else:
            write_json(store.folder / MANIFEST, manifest)
        return store

    def path(self, name: int | str) -> Path:
        """Return the file of a shard: `store.path(3)` is folder/shard-000003.safetensors."""
        return self.folder / f"{self.prefix}-{f'{name:06}' if isinstance(name, int) else name}.safetensors"

    def __contains__(self, name: int | str) -> bool:
        return self.path(name).is_file()

    def names(self) -> list[str]:
        """List the shards that are complete, sorted, without prefix and suffix."""
        return sorted(
            path.stem.removeprefix(f"{self.prefix}-") for path in self.folder.glob(f"{self.prefix}-*.safetensors")
        )

    def missing(self, count: int) -> list[int]:
        """List the numbers below `count` whose shards do not exist yet."""
        existing = set(self.names())
        return [number for number in range(count) if f"{number:06}" not in existing]

    def write(self, name: int | str, tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
        """Write a shard atomically: tensors as they are, `values` as JSON bytes under their own keys.

        Raises OSError if writing fails, and FileNotFoundError if the folder was removed or renamed since it was opened.
        """
        if not (self.folder / MANIFEST).is_file():  # a new folder would hold this shard and lack the earlier ones
            raise FileNotFoundError(f"{self.folder} was removed or renamed: run the same command again")
        # json escapes non-ASCII characters: a file name that is not valid UTF-8 cannot be encoded otherwise
        encoded = {
            key: torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
            for key, value in (values or {}).items()
        }
        contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
        atomic_write({self.path(name): save({**contiguous, **encoded})})

    @contextmanager
    def opened(self, name: int | str) -> Iterator[Any]:
        """Open a shard memory-mapped, as safetensors' `safe_open` does; use it to read single tensors or slices.

        Raises ValueError naming the file if it is not a complete shard.
        """
        path = self.path(name)
        try:
            with safe_open(path, framework="pt") as shard:
                yield shard
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(
                f"{path} is not a complete shard ({error}): delete it and run the same command again"
            ) from error

    def read(self, name: int | str) -> dict[str, Tensor]:
        """Read all tensors of a shard."""
        with self.opened(name) as shard:
            return {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118  not a dict

    def read_json(self, name: int | str, key: str) -> Any:
        """Read one JSON value of a shard."""
        with self.opened(name) as shard:
            return json.loads(bytes(shard.get_tensor(key).numpy()))

    def clear_leftovers(self) -> None:
        """Remove partial files that killed processes left; call it only when no other process is writing."""
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read a store's manifest. Raises ValueError if the folder has none."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no {MANIFEST}: give a folder that this kit wrote")
    return read_object(path)


def shard_ranges(folder: str | Path, manifest: Mapping[str, Any]) -> list[range]:
    """Return the row ranges that a manifest describes: `shard_ranges(folder, read_manifest(folder))`.

    Raises ValueError, naming the manifest, for a missing number or one that no shards can have.
    """
    try:
        return row_ranges(*(cast(int, manifest.get(name)) for name in ("rows", "shard_size")))
    except ValueError as error:
        raise ValueError(f"{Path(folder) / MANIFEST}: {error}") from error


def differences(stored: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """Name the values that differ between a manifest and the present one; hashes are shortened.

    differences({"model": {"dtype": "float32"}}, {"model": {"dtype": "float16"}})
    # ["model.dtype: float32 in the folder, float16 now"]
    """
    found = []
    for key in (*now, *(key for key in stored if key not in now)):
        old, new, name = stored.get(key), now.get(key), f"{within}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        elif isinstance(new, dict) and old is None:
            found.append(f"{name}: not recorded in the folder")
        elif isinstance(old, dict) and new is None:
            found.append(f"{name}: recorded in the folder, not given now")
        elif old != new:
            found.append(f"{name}: {_short(old)} in the folder, {_short(new)} now")
    return found


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value


def row_ranges(rows: int, shard_size: int) -> list[range]:
    """Split rows into the fixed ranges of shards: `row_ranges(10, 4)` is [range(0, 4), range(4, 8), range(8, 10)].

    Raises ValueError for numbers that no shards can have.
    """
    for name, value, least in (("rows", rows, 0), ("shard_size", shard_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
    if (count := -(-rows // shard_size)) > MAX_SHARDS:
        raise ValueError(f"{rows:,} rows in shards of {shard_size:,} are {count:,} files: use larger shards")
    return [range(start, min(start + shard_size, rows)) for start in range(0, rows, shard_size)]
