"""Embed millions of images into shards that resume after an interruption, and search them exactly.

A shard holds a fixed row range of the source, so existing files show what is done. Rank r takes every ranks-th shard.

    out/manifest.json               source, model (its name, and its identity by content), rows, shard size
    out/shard-000000.safetensors    "embeddings" (n, dim) and their digest, the names of the n images and of skipped
                                    ones, and the keys of all images by content, in the order of the source

A folder without identity or keys, of an older kit, is searched with a warning and not continued by `vladva embed`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from vladva_kit.data.images import ImageRecord, check_unchanged, content_values, source_fingerprint
from vladva_kit.data.store import Store, differences, read_manifest, row_ranges, shard_ranges
from vladva_kit.data.validation import decode_image
from vladva_kit.embedder.identity import content_key, identity_of
from vladva_kit.models.images import MAX_BATCH_PIXELS, BadInput

if TYPE_CHECKING:
    from PIL import Image


def embed_images_to_shards(
    images: Sequence[ImageRecord],
    encode: Callable[[Sequence[Any]], Tensor],
    out: str | Path,
    *,
    model: str,
    identity: Mapping[str, Any] | None = None,
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

        embed_images_to_shards(
            list_images("photos"), embedder.encode_image, "runs/photos", model="emoji-llava",
            identity=identity_of(embedder),
        )

    encode: images to (n, dim) unit vectors. model: the name by which `vladva search` loads it again. identity: what
    `identity_of` returns; without it, other weights of the same name are not noticed. `progress` gets the
    size of each shard.
    Raises BadInput for an image that cannot be read (finished shards are kept); with on_error="skip" the image is
    skipped and its name stored in the shard. Raises ValueError, before anything is written, if `out` holds embeddings
    of another source or model, or if an image changed since.
    """
    store = Store.open(out, {
        "model": model, "source": source_fingerprint(images), "rows": len(images), "shard_size": shard_size,
        "dtype": dtype, "version": 1, **({} if identity is None else {"identity": dict(identity)}),
    })  # fmt: skip
    ranges = row_ranges(len(images), shard_size)
    own_ranges = list(enumerate(ranges))[rank::ranks]
    for shard, rows in own_ranges:  # before anything is written
        if shard in store:
            check_unchanged(store, shard, (images[row] for row in rows))
    for shard, rows in own_ranges:
        if shard not in store:
            part: Subset = Subset(cast(Dataset, images), rows)
            loader: DataLoader = DataLoader(part, batch_size, num_workers=workers, collate_fn=_decode_batch)
            store.write(shard, *_embed(loader, encode, getattr(torch, dtype), on_error))
        progress(len(rows))
    complete = not store.missing(len(ranges))
    if complete:  # otherwise another rank may be writing
        store.clear_leftovers()
    return complete


Decoded = tuple[list[tuple[str, "Image.Image"]], list[tuple[str, str]], list[ImageRecord]]


def _decode_batch(records: list[ImageRecord]) -> tuple[Decoded, dict[str, list]]:
    """Decode images in a loader's worker; return what `_decode` does and the content of all."""
    return _decode(records), content_values(records)


def _decode(records: list[ImageRecord]) -> Decoded:
    """Decode images until they have MAX_BATCH_PIXELS.

    Returns (name, image) of each, (name, error message) of the unreadable ones, and the records that are left.
    """
    decoded, unreadable, pixels = [], [], 0
    for number, record in enumerate(records, start=1):
        try:
            decoded.append((record.name, image := decode_image(record.image, record.name)))
        except BadInput as error:
            unreadable.append((record.name, str(error)))
            continue
        pixels += image.width * image.height
        if pixels > MAX_BATCH_PIXELS:
            return decoded, unreadable, records[number:]
    return decoded, unreadable, []


def _embed(
    loader: DataLoader, encode: Callable[[Sequence[Any]], Tensor], dtype: torch.dtype, on_error: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a shard's tensors and JSON values."""
    values: dict[str, Any] = {"names": [], "skipped": [], "keys": [], "stamps": []}
    parts = []
    for (decoded, unreadable, left), content in loader:
        for name, of_batch in content.items():
            values[name] += of_batch
        while True:
            if unreadable and on_error == "raise":
                raise BadInput(f"{unreadable[0][1]}, or skip such images with --skip-bad")
            if unreadable:
                warnings.warn(f"skipped: {'; '.join(error for _, error in unreadable)}", stacklevel=3)
            values["skipped"] += [name for name, _ in unreadable]
            values["names"] += [name for name, _ in decoded]
            if decoded:
                parts.append(encode([image for _, image in decoded]).to(dtype))
            if not left:
                break
            decoded, unreadable, left = _decode(left)
    embeddings = torch.cat(parts) if parts else torch.zeros(0, 0, dtype=dtype)
    digest = content_key(embeddings.numpy().tobytes())  # an index of these embeddings records it
    return {"embeddings": embeddings}, {**values, "digest": digest}


def open_shards(out: str | Path) -> tuple[Store, int]:
    """Open a complete folder of shards; return its store and the number of shards.

    Raises ValueError if the folder has no manifest or if shards are missing.
    """
    store, manifest = Store(Path(out)), read_manifest(out)
    ranges = shard_ranges(out, manifest)
    count, missing = len(ranges), store.missing(len(ranges))
    if missing:
        raise ValueError(
            f"{out} lacks {len(missing)} of {count} shards, first {store.path(missing[0]).name}: "
            "run the same `vladva embed` command again to resume"
        )
    if more := [name for name in store.names() if name.isdecimal() and int(name) >= count]:
        path = store.path(int(more[0]))
        raise ValueError(f"{path} is not of the {count} shards that the manifest names: remove this file")
    for shard, rows in enumerate(ranges):
        with store.opened(shard) as file:
            found = file.get_slice("embeddings").get_shape()[0]
            skipped = "skipped" in file.keys()  # noqa: SIM118  not a dict
        found += len(store.read_json(shard, "skipped")) if skipped else 0
        if skipped and found != len(rows):
            raise ValueError(
                f"{store.path(shard)} holds {found} rows and the manifest names {len(rows)}: remove this file and run "
                "the same `vladva embed` command again"
            )
    return store, count


def check_model(out: str | Path, embedder: Any) -> list[str]:
    """Check that queries of an embedder may be compared with a folder's embeddings; return warnings, one sentence each.

        for warning in check_model("runs/photos", embedder): print(warning)

    Other versions, and a folder that records no identity, are warnings. Raises ValueError naming both values if
    weights, adapter, prompts, resolution or dtype differ.
    """
    stored = read_manifest(out).get("identity")
    if stored is None:
        return [f"{out} records its model's name only: if the model changed since, embed the images again"]
    now = json.loads(json.dumps(identity_of(embedder)))
    other_versions = differences(stored.pop("versions", {}), now.pop("versions"))
    if found := differences(stored, now):
        raise ValueError(
            f"{out} holds embeddings of another model than the queries' ({'; '.join(found)}): search with the model "
            "that embedded the images, or embed them again into another folder"
        )
    versions = "; ".join(other_versions)
    return [f"{out} was embedded with other versions ({versions}): cosines may differ slightly"] if versions else []


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

    queries: (n, dim), unit length. A cosine that is NaN ranks last. All rows are read, `rows` at a time: 5 million of
    dim 4,096 are 80 GB. For more, use `search_index`.
    Raises ValueError if shards are missing or if the queries' dim is not the embeddings'.
    """
    best = torch.empty(len(queries), 0)
    positions: list[list[tuple[int, int]]] = [[] for _ in queries]  # (shard, row) of the best so far, by query
    for shard, start, block in blocks(out, rows):
        if block.shape[1] != queries.shape[1]:
            raise ValueError(
                f"queries of dim {queries.shape[1]} do not fit embeddings of dim {block.shape[1]} in {out}"
            )
        joined = torch.cat([best, cosines(queries, block)], dim=1)
        best, columns = joined.topk(min(k, joined.shape[1]), dim=1)
        for query, kept in enumerate(columns.tolist()):
            earlier = positions[query]
            positions[query] = [
                earlier[column] if column < len(earlier) else (shard, start + column - len(earlier)) for column in kept
            ]
    found = zip(best.tolist(), positions, strict=True)
    return with_names(out, [[(s, *position) for s, position in zip(*of_query, strict=True)] for of_query in found])


def cosines(queries: Tensor, embeddings: Tensor) -> Tensor:
    """Return the cosines (n, m) of unit vectors; NaN, which would rank first, becomes minus infinity."""
    found = queries.float() @ embeddings.float().T
    return found.masked_fill(found.isnan(), -torch.inf)


def with_names(out: str | Path, results: list[list[tuple[float, int, int]]]) -> list[list[tuple[float, str]]]:
    """Replace (score, shard, row) with (score, image name); each shard's names are read once."""
    store = Store(Path(out))
    names = {shard: store.read_json(shard, "names") for shard in {shard for found in results for _, shard, _ in found}}
    return [[(score, names[shard][row]) for score, shard, row in found] for found in results]
