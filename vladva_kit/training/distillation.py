"""Score candidate captions with the base model's likelihood before training: the teacher of the distillation loss.

The batches of a run are known in advance, so only images and captions that meet in one are scored. Groups and mined
neighbors are adjacent in a batch, so an image's candidates are the captions next to its own, and all of its group.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vladva_kit.data.hard_batches import caption_keys, image_keys
from vladva_kit.data.pairs import Pair
from vladva_kit.data.store import Store
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.identity import content_key, identity_of
from vladva_kit.embedder.likelihood import likelihood
from vladva_kit.models.device import check_finite, rank, world_size
from vladva_kit.models.images import ImageLike

CANDIDATES = 5  # captions per image, without its group's (K in CORE, arXiv 2609.04083)
IMAGES_PER_SHARD = 256
Key = tuple[int, int]  # of image and caption
Candidates = dict[Key, tuple[ImageLike, str]]


@dataclass(frozen=True)
class BatchScores:
    """A batch's scored candidates: image row `rows[i]` has `logits[i]` for the caption with key `captions[i]`."""

    rows: Tensor  # (n,) int64
    captions: Tensor  # (n,) int64
    logits: Tensor  # (n,) float32

    def dense(self, n_rows: int, captions: Tensor) -> Tensor:
        """Arrange logits by caption key, NaN where unknown: (n_rows, n_captions) on the device of `captions`.

        scores.dense(2, torch.tensor([7, 9, 7]))    # a caption that several columns share is in the first one only
        """
        device = captions.device
        result = torch.full((n_rows, len(captions)), float("nan"), device=device)
        if len(captions) and len(self.rows):
            keys, inverse = captions.unique(return_inverse=True)
            columns = torch.arange(len(captions), device=device)
            first = columns.new_full((len(keys),), len(captions)).scatter_reduce(0, inverse, columns, "amin")
            wanted = self.captions.to(device)
            index = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            found = keys[index] == wanted
            result[self.rows.to(device)[found], first[index[found]]] = self.logits.to(device)[found]
        return result


@dataclass(frozen=True)
class TeacherScores:
    """The teacher's scores by image key: caption keys (k,) and mean log-probabilities per token (k,)."""

    by_image: Mapping[int, tuple[Tensor, Tensor]]
    temperature: float  # divides the scores

    def of_batch(self, keys: Tensor) -> BatchScores:
        """Select the scores of a batch's images: `teacher.of_batch(batch.keys)`, keys (n, 2) of caption and image."""
        empty = torch.empty(0, dtype=torch.long), torch.empty(0)
        found = [self.by_image.get(image, empty) for image in keys[:, 1].tolist()]
        rows = torch.arange(len(found)).repeat_interleave(
            torch.tensor([len(one) for one, _ in found], dtype=torch.long)
        )
        captions, scores = (torch.cat([one[part] for one in (empty, *found)]) for part in (0, 1))
        return BatchScores(rows, captions, scores / self.temperature)


def candidates_of(batches: Iterable[Sequence[Pair]]) -> Candidates:
    """Collect which captions are scored with which image, by their keys.

        candidates_of([pairs[:64]])    # {(image key, caption key): (image, caption), …}

    An image's candidates are its own caption, two to either side in the batch, and all of its group; pairs without a
    short caption are left out. Raises ValueError if no image has a second caption.
    """
    reach, candidates, n_captions = CANDIDATES // 2, dict[Any, Any](), Counter[Any]()
    for batch in batches:
        rows, groups = [pair for pair in batch if pair.short], defaultdict(list)
        captions = caption_keys([pair.short or "" for pair in rows]).tolist()
        for place, pair in enumerate(rows):
            groups[pair.group].append(place)
        for place, (pair, image) in enumerate(zip(rows, image_keys(rows).tolist(), strict=True)):
            near = range(max(0, place - reach), min(len(rows), place + reach + 1))
            group = groups[pair.group] if pair.group is not None else ()
            for other in dict.fromkeys((place, *near, *group)):
                if (key := (image, captions[other])) not in candidates:
                    candidates[key] = pair.image, rows[other].short
                    n_captions[image] += 1
    if max(n_captions.values(), default=0) < 2:
        raise ValueError(
            "distill_weight has no candidates to rank, since no batch holds two short captions: add 'short' captions, "
            "use a larger batch_size, or leave distill_weight out"
        )
    return candidates


def score_candidates(
    embedder: Embedder,
    candidates: Candidates,
    temperature: float,
    cache: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> TeacherScores:
    """Score each image with its candidates by the likelihood of the base model, the adapter off.

        score_candidates(embedder, candidates_of(batches), temperature=0.2, cache="runs/teacher")

    cache: a folder. Scores that it holds are read, and new ones are added as they are computed, so an interrupted run
    resumes and runs with other batches share them; several ranks divide the work. Raises ValueError for a folder of
    another model, or if the model's captions cannot be scored; NonFiniteError if a score overflows.
    """
    with embedder.base():
        store = None if cache is None else Store.open(cache, {"teacher": identity_of(embedder)}, "scores")
        known = _read_scores(store)
        _barrier()  # all ranks read the same scores before one of them adds more
        shards = _shards(key for key in candidates if key not in known)
        own = shards if store is None else shards[rank() :: world_size()]
        with tqdm(total=sum(map(len, own)), desc="teacher", unit="score", delay=2, leave=False,
                  disable=not progress) as bar:  # fmt: skip
            for keys in own:
                images, captions = zip(*(candidates[key] for key in keys), strict=True)
                scores = likelihood(embedder, images, captions, paired=True, batch_size=batch_size, progress=False)
                check_finite(scores, embedder.lvlm.model.dtype, "teacher's scores")
                known |= dict(zip(keys, scores.tolist(), strict=True))
                if store is not None:
                    store.write(content_key(json.dumps(keys))[:16], {"keys": torch.tensor(keys), "scores": scores})
                bar.update(len(keys))
        _barrier()  # all ranks have written theirs
    if world_size() > 1 and store is not None:
        known = _read_scores(store)
    by_image = defaultdict(list)
    for image, caption in candidates:
        by_image[image].append((caption, known[image, caption]))
    columns = {image: tuple(zip(*one, strict=True)) for image, one in by_image.items()}
    return TeacherScores({i: (torch.tensor(keys), torch.tensor(values)) for i, (keys, values) in columns.items()},
                         temperature)  # fmt: skip


def _shards(keys: Iterable[Key]) -> list[list[Key]]:
    """Divide keys into shards of complete images, so that each image's prefix is computed once."""
    by_image = defaultdict(list)
    for key in keys:
        by_image[key[0]].append(key)
    groups = list(by_image.values())
    return [
        [key for group in groups[start : start + IMAGES_PER_SHARD] for key in group]
        for start in range(0, len(groups), IMAGES_PER_SHARD)
    ]


def _read_scores(store: Store | None) -> dict[Key, float]:
    known: dict[Key, float] = {}
    if store is None:
        return known
    for name in store.names():
        shard = store.read(name)
        known |= dict(zip(map(tuple, shard["keys"].tolist()), shard["scores"].tolist(), strict=True))
    return known


def _barrier() -> None:
    if world_size() > 1:
        torch.distributed.barrier()
