"""An index beside the shards, for more rows than a search should read: faiss finds candidates, the shards rank them.

A row takes 64 bytes in the index, whatever its width in the shards; the candidates' cosines are computed from the rows
themselves, so that the scores are exact and only which rows are looked at is approximate.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from types import ModuleType

import torch
from safetensors import safe_open
from torch import Tensor

from vladva_kit.models.files import atomic_write
from vladva_kit.models.load import MissingExtra
from vladva_kit.search.shards import blocks, read_manifest, read_names, shard_path, shards_of

INDEX = "index.faiss"
EXACT_UP_TO = 5_000_000  # rows: 80 GB to read at a width of 4,096; from there on an index is the better tool
TRAINED_ON = 1_000_000  # rows at most, from all over the shards


def build_index(out: str | Path) -> Path:
    """Builds the index of a folder of shards, whole or not at all, and returns its path.

        build_index("runs/photos")    # runs/photos/index.faiss

    Inverted lists (4·√rows) of product-quantized rows (Jégou et al. 2011), as faiss makes them; the rows are read
    twice, a block at a time.
    Raises ValueError where shards are missing or hold fewer than 256 rows, MissingExtra without faiss.
    """
    faiss, out = _faiss(), Path(out)
    counts = _counts(out)
    total = sum(counts)
    if total < 256:
        raise ValueError(f"{out} holds {total} rows, and an index needs 256: search without one, it is exact")
    stride = max(1, total // TRAINED_ON)
    sample = torch.cat([block[::stride] for _, _, block in blocks(out)])
    width = sample.shape[1]
    codes = next(n for n in (64, 32, 16, 8, 4, 2, 1) if width % n == 0)
    lists = max(1, min(round(4 * math.sqrt(total)), len(sample) // 39))  # below 39 rows a list, faiss warns
    index = faiss.index_factory(width, f"IVF{lists},PQ{codes}", faiss.METRIC_INNER_PRODUCT)
    index.train(sample.numpy())
    for _, _, block in blocks(out):
        index.add(block.numpy())
    atomic_write({out / INDEX: faiss.serialize_index(index).tobytes()})
    return out / INDEX


def search_index(
    out: str | Path, queries: Tensor, k: int = 10, *, probed: float = 0.05, candidates: int = 100
) -> list[list[tuple[float, str]]]:
    """As `embedding_shards.search`, by the index: `search_index("runs/photos", embedder.encode_text(["a red car"]))`.

    probed: the share of the lists that is looked into; candidates: how many rows for each of the k are ranked by their
    exact cosines. More of both find more of the true nearest and take longer.
    Raises ValueError where there is no index or it is of other rows, MissingExtra without faiss.
    """
    faiss, out = _faiss(), Path(out)
    if not (out / INDEX).is_file():
        raise ValueError(f"{out} holds no {INDEX}: build_index makes it (`vladva index`)")
    index, counts = faiss.read_index(str(out / INDEX), faiss.IO_FLAG_MMAP), _counts(out)
    if index.ntotal != sum(counts) or index.d != queries.shape[1]:
        raise ValueError(
            f"{out / INDEX} is of {index.ntotal} rows of dim {index.d}, the shards hold {sum(counts)} and the queries "
            f"have dim {queries.shape[1]}: build the index again (`vladva index`)"
        )
    index.nprobe = max(1, math.ceil(probed * index.nlist))
    _, found = index.search(queries.float().numpy(), min(k * candidates, index.ntotal))
    ends = list(accumulate(counts))
    return [_ranked(out, ends, query, [row for row in rows.tolist() if row >= 0], k) for query, rows in
            zip(queries, found, strict=True)]  # fmt: skip


def _ranked(out: Path, ends: list[int], query: Tensor, rows: list[int], k: int) -> list[tuple[float, str]]:
    """The k best of some rows by their cosines with the query, read from the shards."""
    by_shard = defaultdict(list)
    for row in rows:
        shard = bisect_right(ends, row)
        by_shard[shard].append(row - (ends[shard - 1] if shard else 0))
    scored = []
    for shard, own in by_shard.items():
        with safe_open(shard_path(out, shard), framework="pt") as opened:
            stored = opened.get_slice("embeddings")
            values = torch.cat([stored[row : row + 1].float() for row in own]) @ query.float()
        scored += [(score, shard, row) for score, row in zip(values.tolist(), own, strict=True)]
    best = sorted(scored, reverse=True)[:k]
    names = {shard: read_names(shard_path(out, shard)) for _, shard, _ in best}
    return [(score, names[shard][row]) for score, shard, row in best]


def rows_of(out: str | Path) -> int:
    """How many embeddings a folder of shards holds: `rows_of("runs/photos")`."""
    return sum(_counts(Path(out)))


def _counts(out: Path) -> list[int]:
    counts = []
    for number in range(shards_of(read_manifest(out))):
        with safe_open(shard_path(out, number), framework="pt") as shard:
            counts.append(shard.get_slice("embeddings").get_shape()[0])
    return counts


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra(
            "an index needs faiss, which is not installed: pip install 'vladva-kit[index]'; exact search does without"
        ) from error
    return faiss
