"""Index embeddings with faiss when there are too many to read for each search.

The index takes 64 bytes per row, whatever the embeddings' dim. It only proposes candidates: their cosines are computed
from the shards, so scores are exact and only the choice of candidates is approximate.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vladva_kit.data.store import Store
from vladva_kit.embedder.identity import content_key
from vladva_kit.models.files import atomic_write
from vladva_kit.models.load import MissingExtra
from vladva_kit.search.shards import blocks, cosines, open_shards, with_names

INDEX = "index.faiss"
INDEX_KEY = "index.json"  # the key of the embeddings that the index is of
MAX_EXACT_ROWS = 5_000_000  # 80 GB to read at dim 4,096; an index is faster for more
MAX_TRAINING_ROWS = 1_000_000  # spread over all shards


def build_index(out: str | Path) -> Path:
    """Build the index of a folder of shards, write it atomically, and return its path.

        build_index("runs/photos")    # runs/photos/index.faiss

    The index is faiss' inverted file (4·√rows lists) with product quantization (Jégou et al. 2011). The shards are read
    twice, one block at a time.
    Raises ValueError if shards are missing or hold fewer than 256 rows, MissingExtra if faiss is not installed.
    """
    faiss, out = _faiss(), Path(out)
    rows = count_rows(out)
    if rows < 256:
        raise ValueError(f"{out} holds {rows} rows, and an index needs 256: search without an index, it is exact")
    stride = max(1, rows // MAX_TRAINING_ROWS)
    sample = torch.cat([block[::stride] for _, _, block in blocks(out)])
    dim = sample.shape[1]
    codes = next(n for n in (64, 32, 16, 8, 4, 2, 1) if dim % n == 0)
    lists = max(1, min(round(4 * math.sqrt(rows)), len(sample) // 39))  # faiss warns below 39 training rows per list
    index = faiss.index_factory(dim, f"IVF{lists},PQ{codes}", faiss.METRIC_INNER_PRODUCT)
    index.do_polysemous_training = False  # orders codes for a filter that no search uses, and takes most of the time
    index.train(sample.numpy())
    with tqdm(total=rows, unit="row", desc="index") as bar:
        for _, _, block in blocks(out):
            index.add(block.numpy())
            bar.update(len(block))
    embeddings = json.dumps({"embeddings": _embeddings_key(out)}).encode()
    atomic_write({out / INDEX: faiss.serialize_index(index).tobytes(), out / INDEX_KEY: embeddings})
    return out / INDEX


def search_index(
    out: str | Path, queries: Tensor, k: int = 10, *, probed: float = 0.05, candidates: int = 100
) -> list[list[tuple[float, str]]]:
    """Find the k nearest images of each query with the index, as `search` does without it.

        search_index("runs/photos", embedder.encode_text(["a red car"]))

    probed: the share of the lists that is searched; candidates: how many rows per result are ranked by their exact
    cosine. Higher values find more of the true nearest images and take longer.
    Raises ValueError if there is no index or if it does not match the shards, MissingExtra if faiss is not installed.
    """
    faiss, out = _faiss(), Path(out)
    if not (out / INDEX).is_file():
        raise ValueError(f"{out} holds no {INDEX}: build it with `vladva index` or build_index")
    index, counts = faiss.read_index(str(out / INDEX), faiss.IO_FLAG_MMAP), _row_counts(out)
    if index.ntotal != sum(counts) or index.d != queries.shape[1]:
        raise ValueError(
            f"{out / INDEX} is of {index.ntotal} rows of dim {index.d}, the shards hold {sum(counts)} and the queries "
            f"have dim {queries.shape[1]}: build the index again (`vladva index`)"
        )
    key = json.loads((out / INDEX_KEY).read_text())["embeddings"] if (out / INDEX_KEY).is_file() else None
    if key != (now := _embeddings_key(out)):
        raise ValueError(
            f"{out / INDEX} is of other embeddings than the shards' ({str(key)[:12]} in {INDEX_KEY}, {now[:12]} now): "
            "build the index again (`vladva index`)"
        )
    index.nprobe = max(1, math.ceil(probed * index.nlist))
    _, found = index.search(queries.float().numpy(), min(k * candidates, index.ntotal))
    ends = list(accumulate(counts))
    return with_names(out, [
        _rank(Store(out), ends, query, [row for row in rows if row >= 0], k)  # -1: fewer rows than asked for
        for query, rows in zip(queries, found.tolist(), strict=True)
    ])  # fmt: skip


def _rank(store: Store, ends: list[int], query: Tensor, rows: list[int], k: int) -> list[tuple[float, int, int]]:
    """Return the k best of some rows as (cosine, shard, row in the shard); the cosines are computed from the shards."""
    by_shard = defaultdict(list)
    for row in rows:
        shard = bisect_right(ends, row)
        by_shard[shard].append(row - (ends[shard - 1] if shard else 0))
    scored = []
    for shard, in_shard in by_shard.items():
        with store.opened(shard) as file:
            embeddings = file.get_slice("embeddings")
            found = cosines(query[None], torch.cat([embeddings[row : row + 1] for row in in_shard]))[0]
        scored += [(cosine, shard, row) for cosine, row in zip(found.tolist(), in_shard, strict=True)]
    return sorted(scored, reverse=True)[:k]


def count_rows(out: str | Path) -> int:
    """Count the embeddings in a folder of shards: `count_rows("runs/photos")`."""
    return sum(_row_counts(out))


def _row_counts(out: str | Path) -> list[int]:
    """Return the number of rows of each shard. Raises ValueError if shards are missing."""
    store, shards = open_shards(out)
    counts = []
    for shard in range(shards):
        with store.opened(shard) as file:
            counts.append(file.get_slice("embeddings").get_shape()[0])
    return counts


def _embeddings_key(out: Path) -> str:
    """Compute the key of a folder's embeddings from the digests in the shards; those of an older kit hold none."""
    store, shards = open_shards(out)
    digests = []
    for shard in range(shards):
        with store.opened(shard) as file:
            known = "digest" in file.keys()  # noqa: SIM118  not a dict
        digests.append(store.read_json(shard, "digest") if known else None)
    return content_key(json.dumps(digests))


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra(
            "an index needs faiss, which is not installed: pip install 'vladva-kit[index]'; exact search needs no index"
        ) from error
    return faiss
