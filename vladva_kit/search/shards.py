"""Embeddings for millions of pictures: shards written whole, resumed after any interruption, searched exactly.

A shard holds a fixed stretch of the source's rows, so that which rows are done is seen from which files are there: none
is lost and none comes twice. Ranks take shards in turn.

    out/manifest.json               the source, the model, rows, shard size
    out/shard-000000.safetensors    "embeddings" (n, dim) and the rows' names
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vladva_kit.data.images import ImageRecord, fingerprint
from vladva_kit.models.files import atomic_write, write_json
from vladva_kit.models.images import BadInput, open_image

if TYPE_CHECKING:
    from PIL import Image

MANIFEST = "manifest.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
Encode = Callable[[Sequence[Any]], Tensor]


class _Opened(Dataset):
    """Pictures decoded by the loader's workers; an unreadable one comes as the words that say why."""

    def __init__(self, pictures: Sequence[ImageRecord], rows: range) -> None:
        self.pictures, self.rows = pictures, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[str, Image.Image | str]:
        picture = self.pictures[self.rows[at]]
        try:
            return picture.name, open_image(picture.image)
        except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
            return picture.name, f"{picture.name} cannot be read ({error})"


def shard_path(out: Path, number: int) -> Path:
    """Where a shard is."""
    return out / f"shard-{number:06}.safetensors"


def embed_images_to_shards(
    pictures: Sequence[ImageRecord],
    encode: Encode,
    out: str | Path,
    *,
    model: str,
    shard_size: int = 10_000,
    batch_size: int = 64,
    dtype: str = "float32",
    workers: int = 0,
    on_error: str = "raise",
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[int], Any] = lambda rows: None,
) -> dict[str, Any]:
    """Embeds pictures into shards and returns the manifest; what is there already is not made again.

        embed_images_to_shards(list_images("photos"), embedder.encode_image, "runs/photos", model="emoji-llava")

    encode: pictures to (n, dim) unit vectors. With `ranks` processes each takes every ranks-th shard.
    Raises BadInput at a picture that cannot be read, what is written stays; with on_error="skip" it is named in its
    shard and left out. Raises ValueError where `out` holds embeddings of another source or model.
    """
    out = Path(out)
    manifest = {
        "model": model, "source": fingerprint(pictures), "rows": len(pictures), "shard_size": shard_size,
        "dtype": dtype, "version": 1,
    }  # fmt: skip
    _open(out, manifest)
    for number in range(rank, shards_of(manifest), ranks):
        path = shard_path(out, number)
        rows = range(number * shard_size, min((number + 1) * shard_size, len(pictures)))
        if not path.exists():
            atomic_write({path: _shard(_Opened(pictures, rows), encode, batch_size, DTYPES[dtype], workers, on_error)})
        progress(len(rows))
    return manifest


def shards_of(manifest: dict[str, Any]) -> int:
    """How many shards there are when all is done."""
    return -(-manifest["rows"] // manifest["shard_size"])


def _open(out: Path, manifest: dict[str, Any]) -> None:
    if (out / MANIFEST).exists():
        held = json.loads((out / MANIFEST).read_text())
        wrong = [
            f"{key}: {held.get(key)} there, {value} here" for key, value in manifest.items() if held.get(key) != value
        ]
        if wrong:
            raise ValueError(f"{out} holds embeddings of something else ({'; '.join(wrong)}): name another folder")
        return
    if out.is_dir() and any(out.glob("shard-*.safetensors")):
        raise ValueError(f"{out} holds shards and no {MANIFEST}: name another folder")
    write_json(out / MANIFEST, manifest)


def _shard(opened: _Opened, encode: Encode, batch_size: int, dtype: torch.dtype, workers: int, on_error: str) -> bytes:
    names, skipped, parts = [], [], []
    for batch in DataLoader(opened, batch_size=batch_size, num_workers=workers, collate_fn=list):
        bad = [told for _, told in batch if isinstance(told, str)]
        if bad and on_error == "raise":
            raise BadInput(f"{bad[0]}; replace the file, or leave such pictures out with --skip-bad")
        if bad:
            warnings.warn(f"left out: {'; '.join(bad)}", stacklevel=3)
        good = [(name, image) for name, image in batch if not isinstance(image, str)]
        skipped += [name for name, image in batch if isinstance(image, str)]
        names += [name for name, _ in good]
        if good:
            parts.append(encode([image for _, image in good]).to(dtype))
    embeddings = torch.cat(parts) if parts else torch.zeros(0, 0, dtype=dtype)
    return save({"embeddings": embeddings, "names": _text(names), "skipped": _text(skipped)})


def _text(names: list[str]) -> Tensor:
    """Names as bytes, so that they are in the same file as their rows."""
    return torch.frombuffer(bytearray(json.dumps(names).encode()), dtype=torch.uint8)


def read_manifest(out: str | Path) -> dict[str, Any]:
    """The manifest of a folder of shards. Raises ValueError where there is none, or where shards are still missing."""
    out = Path(out)
    if not (out / MANIFEST).is_file():
        raise ValueError(f"{out} holds no {MANIFEST}: give the folder that `vladva embed` wrote")
    manifest = json.loads((out / MANIFEST).read_text())
    missing = [number for number in range(shards_of(manifest)) if not shard_path(out, number).exists()]
    if missing:
        raise ValueError(
            f"{out} lacks {len(missing)} of {shards_of(manifest)} shards, first {shard_path(out, missing[0]).name}: "
            "run the same `vladva embed` again, it goes on where it stopped"
        )
    return manifest


def read_names(path: Path, which: str = "names") -> list[str]:
    """The names of a shard's rows, or of the pictures that were "skipped"."""
    with safe_open(path, framework="pt") as shard:
        return json.loads(bytes(shard.get_tensor(which).numpy()))


def blocks(out: str | Path, rows: int = 65_536) -> Iterator[tuple[Path, int, Tensor]]:
    """All embeddings, a block at a time, from memory-mapped shards: (shard, its first row, (≤ rows, dim) float32)."""
    out = Path(out)
    for number in range(shards_of(read_manifest(out))):
        path = shard_path(out, number)
        with safe_open(path, framework="pt") as shard:
            stored = shard.get_slice("embeddings")
            for start in range(0, stored.get_shape()[0], rows):
                yield path, start, stored[start : start + rows].float()


def search(out: str | Path, queries: Tensor, k: int = 10, rows: int = 65_536) -> list[list[tuple[float, str]]]:
    """The k nearest pictures of each query, exactly: [(cosine, name), …], best first; one block in memory at a time.

        search("runs/photos", embedder.encode_text(["a red car"]), k=3)

    queries: (n, dim), unit length. Every row is looked at: 5 million rows of 4,096 numbers are 80 GB to read, and from
    there on `embedding_index` is the better tool.
    Raises ValueError where shards are missing, or where the queries' dim is not the shards'.
    """
    best = torch.empty(len(queries), 0)
    places: list[list[tuple[Path, int]]] = [[] for _ in queries]
    for path, start, block in blocks(out, rows):
        if block.shape[1] != queries.shape[1]:
            raise ValueError(
                f"queries of dim {queries.shape[1]} do not fit embeddings of dim {block.shape[1]} in {out}"
            )
        joined = torch.cat([best, queries.float() @ block.T], dim=1)
        best, index = joined.topk(min(k, joined.shape[1]), dim=1)
        for query, columns in enumerate(index.tolist()):
            held = places[query]
            places[query] = [held[at] if at < len(held) else (path, start + at - len(held)) for at in columns]
    needed = {path for found in places for path, _ in found}
    names = {path: read_names(path) for path in needed}
    return [
        [(score, names[path][row]) for score, (path, row) in zip(scores, found, strict=True)]
        for scores, found in zip(best.tolist(), places, strict=True)
    ]


def clear_leftovers(out: str | Path) -> bool:
    """Removes what killed processes left half-written, once every shard is there; says whether that is so."""
    out = Path(out)
    manifest = json.loads((out / MANIFEST).read_text())
    if not all(shard_path(out, number).exists() for number in range(shards_of(manifest))):
        return False  # another rank may be writing
    for part in out.glob(".*.part"):
        part.unlink(missing_ok=True)
    return True
