"""Compose batches that require word order: groups, mined nearest neighbors and random pairs in set proportions.

A random batch almost never contains two captions with the same words in another order, so a model that ignores word
order loses nothing. A *group* is a set of pairs that are hard negatives of one another, such as an image and the same
image with two colors swapped; its pairs always share a batch. *Mined* groups are an anchor and its nearest neighbors
under a model's own embeddings.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import Sampler

from vladva_kit.data.pairs import Pair

if TYPE_CHECKING:
    from vladva_kit.embedder.embedder import Embedder

PARTS = ("groups", "mined", "random")
TWINS_AND_NEIGHBORS = {"groups": 0.125, "mined": 0.5, "random": 0.375}  # of the demo, the study and the shipped adapter
APPROXIMATE_FROM = 100_000  # rows; from here on faiss searches an index instead of all rows
COLUMN_BLOCK = 65_536


@dataclass(frozen=True)
class Mining:
    """How hard negatives are mined: `Settings(batches={"mined": 0.5, "random": 0.5}, mining=Mining(by="image"))`."""

    by: str = "text"  # compare captions ("text") or images ("image")
    margin: float | None = 0.1  # see mine_neighbors
    group_size: int = 4  # an anchor and its neighbors in a batch
    refresh_every: int | None = None  # steps after which neighbors are mined again with the trained embedder
    cache: str | None = None  # a folder: neighbors are reused if model and data are the same


def caption_keys(captions: Sequence[str]) -> Tensor:
    """Hash captions to (n,) int64, ignoring case and spacing; ranks exchange these instead of texts.

    caption_keys(["A dog", "a  dog"])    # twice the same number
    """
    return _hashed(" ".join(caption.lower().split()) for caption in captions)


def image_keys(pairs: Sequence[Pair]) -> Tensor:
    """Shorten the keys of the pairs' images to (n,) int64: `image_keys(pairs)[0]`."""
    return _hashed(pair.image_key for pair in pairs)


def _hashed(texts: Any) -> Tensor:
    digests = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.long)


def groups_of(pairs: Sequence[Pair]) -> list[list[int]]:
    """Return the indices of each group's pairs, in the order of the data; pairs without a group are left out.

        groups_of([Pair(a, "x", group="1"), Pair(b, "y"), Pair(c, "z", group="1")])    # [[0, 2]]

    Raises ValueError for a group of one pair, which has no negative of its own.
    """
    groups: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        if pair.group is not None:
            groups.setdefault(pair.group, []).append(index)
    alone = next((name for name, indices in groups.items() if len(indices) == 1), None)
    if alone is not None:
        raise ValueError(
            f"group {alone!r} has one pair, {pairs[groups[alone][0]].where or groups[alone][0]}: "
            "a group needs at least two; add its counterparts or remove its 'group'"
        )
    return list(groups.values())


def nearest_neighbors(vectors: Tensor, k: int, block: int = 1024) -> Tensor:
    """Find the k nearest rows of each row by cosine similarity, itself excluded: (n, k) int64, nearest first.

        nearest_neighbors(embedder.encode_text(captions), k=16)[0]

    vectors: (n, dim), unit length. Similarities are computed in blocks, never as an (n, n) matrix. From 100,000 rows an
    inverted-file index of faiss is used if it is installed; it finds nearly all exact neighbors in far less time.
    Rows with fewer than k others are padded with -1.
    """
    n = len(vectors)
    if n >= APPROXIMATE_FROM and importlib.util.find_spec("faiss"):
        found = _search_with_faiss(vectors, k + 1)
    else:
        found = torch.cat(
            [_nearest_in_blocks(vectors, start, min(start + block, n), k + 1) for start in range(0, n, block)]
        )
    own = found == torch.arange(n)[:, None]
    order = own.to(torch.uint8).argsort(dim=1, stable=True)  # moves the row itself to the end
    found = found.masked_fill(own, -1).gather(1, order)[:, :k]
    return torch.nn.functional.pad(found, (0, k - found.shape[1]), value=-1)


def _nearest_in_blocks(vectors: Tensor, start: int, stop: int, k: int) -> Tensor:
    queries = vectors[start:stop]
    best = torch.empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.long)
    for first in range(0, len(vectors), COLUMN_BLOCK):
        scores = queries @ vectors[first : first + COLUMN_BLOCK].T
        columns = torch.arange(first, first + scores.shape[1]).expand(len(queries), -1)
        best, kept = torch.cat([best, scores], 1).topk(min(k, best.shape[1] + scores.shape[1]), dim=1)
        indices = torch.cat([indices, columns], 1).gather(1, kept)
    return indices


def _search_with_faiss(vectors: Tensor, k: int) -> Tensor:
    import faiss

    rows = vectors.float().numpy()
    n_lists = int(4 * len(rows) ** 0.5)
    index = faiss.index_factory(rows.shape[1], f"IVF{n_lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows[:: max(1, len(rows) // (n_lists * 64))])
    index.add(rows)
    index.nprobe = 16  # type: ignore[attr-defined]  # index_factory is declared to return the base class
    return torch.from_numpy(index.search(rows, k)[1])


def mine_neighbors(
    embedder: Embedder,
    pairs: Sequence[Pair],
    *,
    k: int = 16,
    by: str = "text",
    margin: float | None = 0.1,
    encode_images: Callable[[Sequence[Pair]], Tensor] | None = None,
    log: Callable[[str], None] = lambda message: None,
) -> Tensor:
    """Find hard negatives of each pair under a model's own embeddings: (n, k) int64 indices, -1 where there are fewer.

        neighbors = mine_neighbors(base, pairs)
        [pairs[index].short for index in neighbors[0]]

    by: "text" compares captions, "image" compares images. encode_images: pairs to image embeddings (n, dim), if not
    `embedder.encode_image`; `fit` passes cached features. Some neighbors are false negatives: their caption is also
    true of the anchor's image. Excluded are pairs with the same caption or image, pairs without a short caption,
    and, unless margin is None, neighbors that are not at least `margin` less similar than the positives, in both
    directions: cos(image_i, text_j) <= cos(image_i, text_i) - margin, and the same with i and j exchanged
    (`absolute_margin` of sentence-transformers' mine_hard_negatives; a threshold on false negatives in UniME,
    arXiv 2504.17432). On emoji_pairs with emoji-llava a margin of 0.1 lowers the share of false negatives among the
    three nearest from 15.6 to 4.8 %.
    Raises ValueError if no pair has a short caption, or if the filters exclude every neighbor.
    """
    if by not in ("text", "image"):
        raise ValueError(f"by={by!r}: mine by 'text' or by 'image'")
    rows = [index for index, pair in enumerate(pairs) if pair.short]
    if len(rows) < 2:
        raise ValueError(
            f"mining needs short captions: {len(rows)} of {len(pairs)} pairs have one; add 'short' captions"
        )
    kept = [pairs[index] for index in rows]
    log(f"encoding {len(kept)} captions")
    texts = embedder.encode_text([pair.short or "" for pair in kept])
    images = None
    if by == "image" or margin is not None:
        log(f"encoding {len(kept)} images")
        # decoded a batch at a time
        images = encode_images(kept) if encode_images else embedder.encode_image([pair.image for pair in kept])
    found = nearest_neighbors(images if by == "image" and images is not None else texts, 4 * k)
    allowed = _mask_false_negatives(found, kept, texts, images, margin)
    if not bool(allowed.any()):
        cause = "equal captions or images" if margin is None else f"margin={margin}"
        raise ValueError(
            f"mining found no negatives: all neighbors were excluded by {cause}; use a smaller margin or more pairs"
        )
    order = allowed.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
    chosen = found.gather(1, order).masked_fill(~allowed.gather(1, order), -1)
    index_of = torch.tensor([*rows, -1])  # the last entry maps -1 to -1
    neighbors = torch.full((len(pairs), k), -1, dtype=torch.long)
    neighbors[torch.tensor(rows)] = torch.nn.functional.pad(index_of[chosen], (0, k - chosen.shape[1]), value=-1)
    return neighbors


def _mask_false_negatives(
    found: Tensor, pairs: Sequence[Pair], texts: Tensor, images: Tensor | None, margin: float | None, block: int = 8192
) -> Tensor:
    """Mark the neighbors (n, k) that are not false negatives."""
    captions, images_of_pairs = caption_keys([pair.short or "" for pair in pairs]), image_keys(pairs)
    allowed = found >= 0
    index = found.clamp(min=0)
    allowed &= captions[index] != captions[:, None]
    allowed &= images_of_pairs[index] != images_of_pairs[:, None]
    if margin is not None and images is not None:
        limit = (images * texts).sum(1) - margin
        for start in range(0, len(found), block):
            rows, near = slice(start, start + block), index[start : start + block]
            allowed[rows] &= torch.einsum("nd,nkd->nk", images[rows], texts[near]) <= limit[rows, None]
            allowed[rows] &= torch.einsum("nd,nkd->nk", texts[rows], images[near]) <= limit[near]
    return allowed


def mined_groups(neighbors: Tensor, group_size: int = 4, seed: int = 0) -> list[list[int]]:
    """Partition pairs into disjoint groups, an anchor and its nearest free neighbors: `mined_groups(neighbors)`."""
    anchors, used, groups = list(range(len(neighbors))), set(), []
    random.Random(f"mined groups {seed}").shuffle(anchors)
    for anchor in anchors:
        if anchor in used:
            continue
        free = [index for index in neighbors[anchor].tolist() if index >= 0 and index not in used and index != anchor]
        group = [anchor, *free[: group_size - 1]]
        if len(group) > 1:
            used.update(group)
            groups.append(group)
    return groups


def checked_mix(batches: Mapping[str, float], batch_size: int, groups: Sequence[Sequence[int]]) -> dict[str, int]:
    """Translate proportions into rows per batch.

        checked_mix({"groups": 0.25, "mined": 0.5, "random": 0.25}, 64, groups)
        # {"groups": 16, "mined": 32, "random": 16}

    Raises ValueError for unknown parts, proportions that are negative or do not sum to 1, a share of groups without
    groups in the data, or a group larger than its share of the batch.
    """
    unknown = [name for name in batches if name not in PARTS]
    if unknown:
        raise ValueError(f"batches has the unknown part {unknown[0]!r}: use {', '.join(PARTS)}")
    if any(not 0 <= share <= 1 for share in batches.values()) or abs(sum(batches.values()) - 1) > 1e-6:
        raise ValueError(f"batches={dict(batches)}: the proportions must lie between 0 and 1 and sum to 1")
    rows = {name: round(batch_size * batches.get(name, 0.0)) for name in ("groups", "mined")}
    rows["random"] = batch_size - sum(rows.values())
    if rows["groups"] and not groups:
        raise ValueError(
            f"batches asks for {batches['groups']:g} groups, but no pair has a 'group': add a group column, "
            "or use batches={'mined': …, 'random': …}"
        )
    largest = max(map(len, groups), default=0)
    if rows["groups"] and largest > rows["groups"]:
        raise ValueError(
            f"a group of {largest} pairs does not fit into {rows['groups']} rows ({batches['groups']:g} of a batch of "
            f"{batch_size}): use a larger batch or a larger share of groups"
        )
    return rows


class HardBatches(Sampler[int]):
    """Order indices so that each consecutive block of `batch_size` is one batch with the requested composition.

        rows = checked_mix({"groups": 0.25, "mined": 0.5, "random": 0.25}, 64, groups)
        order = list(HardBatches(len(pairs), rows, groups, neighbors))
        order[:64]     # the first global batch

    A group never straddles two batches, and no index occurs twice in a batch. The order depends only on seed, epoch and
    neighbors, so it is the same on one process and on many, and a resumed run repeats it. An epoch has as many batches
    as fit into the data. Anchors and random pairs are sampled without replacement; groups are reshuffled when all of
    them are used.
    `neighbors` may be replaced during an epoch: following batches use the new ones.
    """

    def __init__(
        self,
        n_pairs: int,
        rows: Mapping[str, int],
        groups: Sequence[Sequence[int]] = (),
        neighbors: Tensor | None = None,
        group_size: int = 4,
        seed: int = 0,
    ) -> None:
        if rows["mined"] and neighbors is None:
            raise ValueError("a batch with mined rows needs neighbors: call mine_neighbors(embedder, pairs) first")
        self.n_pairs, self.rows, self.groups, self.neighbors = n_pairs, dict(rows), groups, neighbors
        self.batch_size, self.group_size, self.seed, self.epoch = sum(rows.values()), group_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the loader calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_pairs // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        rng, n, size = random.Random(f"hard batches {self.seed} {self.epoch}"), self.n_pairs, self.batch_size
        packed = _pack(self.groups, self.rows["groups"], n // size, rng)
        anchors, singles = rng.sample(range(n), n), rng.sample(range(n), n)
        for number in range(n // size):
            candidates = slice(number * size, (number + 1) * size)
            yield from self._batch(packed[number], anchors[candidates], singles[candidates])

    def _batch(self, grouped: Sequence[int], anchors: Sequence[int], singles: Sequence[int]) -> list[int]:
        batch = dict.fromkeys(grouped)  # an ordered set
        end_of_mined = len(batch) + self.rows["mined"]
        for anchor in anchors if self.rows["mined"] else ():
            nearest = cast(Tensor, self.neighbors)[anchor].tolist()
            near = [index for index in nearest if index >= 0 and index not in batch]
            if near and anchor not in batch and len(batch) + 1 < end_of_mined:
                batch.update(dict.fromkeys([anchor, *near][: min(self.group_size, end_of_mined - len(batch))]))
        for index in singles:  # as many as a batch has rows, so there are always enough
            if len(batch) < self.batch_size:
                batch.setdefault(index)
        return list(batch)


def _pack(groups: Sequence[Sequence[int]], rows: int, n_batches: int, rng: random.Random) -> list[list[int]]:
    """Fill up to `rows` rows of each batch with complete groups, in shuffled order, starting over when all are used."""
    queue: list[Sequence[int]] = []
    packed: list[list[int]] = [[] for _ in range(n_batches)]
    for batch in packed if rows and groups else ():
        waiting: list[Sequence[int]] = []  # did not fit; first in the next batch
        while len(batch) < rows and len(waiting) < 8:
            if not queue:
                queue = rng.sample(list(groups), len(groups))
            group = queue.pop()
            if len(batch) + len(group) <= rows and group[0] not in batch:
                batch += group
            else:
                waiting.append(group)
        queue += waiting[::-1]
    return packed
