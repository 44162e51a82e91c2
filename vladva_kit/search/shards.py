"""Embed millions of images into shards that resume after an interruption, and search them exactly.

A shard holds a fixed row range of the source, so existing files show what is done. Rank r takes every ranks-th shard.

    out/manifest.json               source, model, rows, shard size
    out/shard-000000.safetensors    "embeddings" (n, dim), and the names of the n images
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from vladva_kit.data.images import ImageRecord, source_fingerprint
from vladva_kit.data.store import Store, read_manifest, row_ranges
from vladva_kit.data.validation import decode_image
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    from PIL import Image


def embed_images_to_shards(
    images: Sequence[ImageRecord],
    encode: Callable[[Sequence[Any]], Tensor],
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
) -> bool:
    """Embed images into the shards that do not exist yet; return True once the shards of all ranks exist.

        embed_images_to_shards(list_images("photos"), embedder.encode_image, "runs/photos", model="emoji-llava")

    encode: images to (n, dim) unit vectors. `progress` gets the size of each shard.
    Raises BadInput for an image that cannot be read (finished shards are kept); with on_error="skip" the image is
    skipped and its name stored in the shard. Raises ValueError if `out` holds embeddings of another source or model.
    """
    store = Store.open(out, {
        "model": model, "source": source_fingerprint(images), "rows": len(images), "shard_size": shard_size,
        "dtype": dtype, "version": 1,
    })  # fmt: skip
    ranges = row_ranges(len(images), shard_size)
    for shard, rows in list(enumerate(ranges))[rank::ranks]:
        if shard not in store:
            loader = DataLoader(Subset(images, rows), batch_size, num_workers=workers, collate_fn=_decode)
            embeddings, names, skipped = _embed(loader, encode, getattr(torch, dtype), on_error)
            store.write(shard, {"embeddings": embeddings}, {"names": names, "skipped": skipped})
        progress(len(rows))
    complete = not store.missing(len(ranges))
    if complete:  # otherwise another rank may be writing
        store.clear_leftovers()
    return complete


def _decode(records: list[ImageRecord]) -> tuple[list[tuple[str, Image.Image]], list[tuple[str, str]]]:
    """Decode images in a loader's worker: (name, image) of each, and (name, error message) of the unreadable ones."""
    decoded, unreadable = [], []
    for record in records:
        try:
            decoded.append((record.name, decode_image(record.image, record.name)))
        except BadInput as error:
            unreadable.append((record.name, str(error)))
    return decoded, unreadable


def _embed(
    loader: DataLoader, encode: Callable[[Sequence[Any]], Tensor], dtype: torch.dtype, on_error: str
) -> tuple[Tensor, list[str], list[str]]:
    """Return the embeddings of the readable images, their names, and the names of the skipped images."""
    names, skipped, parts = [], [], []
    for decoded, unreadable in loader:
        if unreadable and on_error == "raise":
            raise BadInput(f"{unreadable[0][1]}, or skip such images with --skip-bad")
        if unreadable:
            warnings.warn(f"skipped: {'; '.join(error for _, error in unreadable)}", stacklevel=3)
        skipped += [name for name, _ in unreadable]
        names += [name for name, _ in decoded]
        if decoded:
            parts.append(encode([image for _, image in decoded]).to(dtype))
    return torch.cat(parts) if parts else torch.zeros(0, 0, dtype=dtype), names, skipped


def open_shards(out: str | Path) -> tuple[Store, int]:
    """Open a complete folder of shards; return its store and the number of shards.

    Raises ValueError if the folder has no manifest or if shards are missing.
    """
    store, manifest = Store(Path(out)), read_manifest(out)
    count = len(row_ranges(manifest["rows"], manifest["shard_size"]))
    missing = store.missing(count)
    if missing:
        raise ValueError(
            f"{out} lacks {len(missing)} of {count} shards, first {store.path(missing[0]).name}: "
            "run the same `vladva embed` command again to resume"
        )
    return store, count


def blocks(out: str | Path, rows: int = 65_536) -> Iterator[tuple[int, int, Tensor]]:
    """Yield all embeddings in blocks from memory-mapped shards: (shard, its first row, (≤ rows, dim) float32)."""
    store, count = open_shards(out)
    for shard in range(count):
        with store.opened(shard) as file:
            embeddings = file.get_slice("embeddings")
            for start in range(0, embeddings.get_shape()[0], rows):
                yield shard, start, embeddings[start : start + rows].float()


def search(out: str | Path, queries: Tensor, k: int = 10, rows: int = 65_536) -> list[list[tuple[float, str]]]:
    """Find the k nearest images of each query exactly: [(cosine, name), …], best first.

        search("runs/photos", embedder.encode_text(["a red car"]), k=3)

    queries: (n, dim), unit length. All rows are read, `rows` at a time: 5 million of dim 4,096 are 80 GB. For more, use
    `search_index`.
    Raises ValueError if shards are missing or if the queries' dim is not the embeddings'.
    """
    best = torch.empty(len(queries), 0)
    positions: list[list[tuple[int, int]]] = [[] for _ in queries]  # (shard, row) of the best so far, by query
    for shard, start, block in blocks(out, rows):
        if block.shape[1] != queries.shape[1]:
            raise ValueError(
                f"queries of dim {queries.shape[1]} do not fit embeddings of dim {block.shape[1]} in {out}"
            )
        joined = torch.cat([best, queries.float() @ block.T], dim=1)
        best, columns = joined.topk(min(k, joined.shape[1]), dim=1)
        for query, kept in enumerate(columns.tolist()):
            earlier = positions[query]
            positions[query] = [
                earlier[column] if column < len(earlier) else (shard, start + column - len(earlier)) for column in kept
            ]
    found = zip(best.tolist(), positions, strict=True)
    return with_names(out, [[(s, *position) for s, position in zip(*of_query, strict=True)] for of_query in found])


def with_names(out: str | Path, results: list[list[tuple[float, int, int]]]) -> list[list[tuple[float, str]]]:
    """Replace (score, shard, row) with (score, image name); each shard's names are read once."""
    store = Store(Path(out))
    names = {shard: store.read_json(shard, "names") for shard in {shard for found in results for _, shard, _ in found}}
    return [[(score, names[shard][row]) for score, shard, row in found] for found in results]
