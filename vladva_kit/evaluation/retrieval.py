"""Retrieval both ways, several captions an image: a hit if any right candidate is in the top k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import comb, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.data import Pair, load_pairs
from vladva_kit.evaluation.encoding import EncodesPairs, all_dots, embed_images, embed_texts, image_key, number_unique
from vladva_kit.evaluation.significance import Score, score
from vladva_kit.inputs import BadInput
from vladva_kit.metrics import Ranks, ranks

if TYPE_CHECKING:
    import datasets

BLOCK = 1024  # queries scored at a time: a 5,000 x 25,000 matrix never stands in memory whole


@dataclass(frozen=True)
class RetrievalResult:
    """R@k both ways: `result.text_to_image[1].percent`, `result.image_to_text[10].low`.

    Per query, in the order of the images and of the captions (image by image): the rank of the best right candidate
    (0 is first) and by how much it leads the best wrong one (infinite where none is wrong).
    """

    image_to_text: dict[int, Score]
    text_to_image: dict[int, Score]
    n_images: int
    n_captions: int
    image_ranks: tuple[int, ...] = field(repr=False)
    caption_ranks: tuple[int, ...] = field(repr=False)
    image_margins: tuple[float, ...] = field(repr=False)
    caption_margins: tuple[float, ...] = field(repr=False)

    @property
    def ties(self) -> int:
        """Queries, of both ways, whose best right candidate ties with a wrong one; they count as ranked behind it."""
        return sum(next(iter(way.values())).ties for way in (self.image_to_text, self.text_to_image))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; an infinite margin is None."""
        plain = {name: list(getattr(self, name)) for name in ("image_ranks", "caption_ranks")}
        for name in ("image_margins", "caption_margins"):
            plain[name] = [margin if isfinite(margin) else None for margin in getattr(self, name)]
        return {
            "image_to_text": {f"R@{k}": asdict(one) for k, one in self.image_to_text.items()},
            "text_to_image": {f"R@{k}": asdict(one) for k, one in self.text_to_image.items()},
            "n_images": self.n_images,
            "n_captions": self.n_captions,
            "ties": self.ties,
            **plain,
        }


def evaluate_retrieval(
    embedder: EncodesPairs,
    source: str | Path | datasets.Dataset | list[Pair],
    split: str = "test",
    ks: Sequence[int] = (1, 5, 10),
    captions_per_image: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> RetrievalResult:
    """Retrieval both ways: `evaluate_retrieval(embedder, vk.sample("emoji_pairs")).text_to_image[1].percent`.

    `source` is anything `load_pairs` takes. The captions of an image are `Pair.captions`, the short ones, of which
    `captions_per_image` keeps the first few (5 is COCO's rule); pairs that name the same image are one image. A caption
    that stands with several images is right for all of them. Each image and caption is encoded once. A wrong candidate
    that ties is ranked before the right one, and counted. Chance is that of a random order; intervals draw the captions
    of one image together. Raises BadInput as `load_pairs` does, and for a pair without a short caption.
    """
    if not ks or min(ks) < 1 or (captions_per_image is not None and captions_per_image < 1):
        raise ValueError(f"ks is {tuple(ks)}, captions_per_image {captions_per_image}; both must be at least 1")
    images, captions, owner = _gallery(load_pairs(source, split), captions_per_image)
    first_text, text = number_unique(captions)
    belongs = np.zeros((len(images), len(first_text)), dtype=bool)
    belongs[owner, text] = True
    image_vectors = embed_images(embedder, images, batch_size)
    text_vectors = embed_texts(embedder, [captions[place] for place in first_text], batch_size)

    # candidates are the captions as listed, repeats included; they were only encoded once
    by_image = [
        ranks(all_dots(image_vectors[at], text_vectors)[:, text], belongs[at][:, text]) for at in _blocks(len(images))
    ]
    by_text = [
        ranks(all_dots(text_vectors[text[at]], image_vectors), belongs[:, text[at]].T) for at in _blocks(len(text))
    ]
    image_found, caption_found = _joined(by_image), _joined(by_text)
    rights_image, rights_text = belongs[:, text].sum(axis=1), belongs.sum(axis=0)[text]
    return RetrievalResult(
        image_to_text=_scores(image_found, rights_image, len(captions), ks, range(len(images)), seed),
        text_to_image=_scores(caption_found, rights_text, len(images), ks, owner.tolist(), seed),
        n_images=len(images),
        n_captions=len(captions),
        image_ranks=tuple(image_found.rank.tolist()),
        caption_ranks=tuple(caption_found.rank.tolist()),
        image_margins=tuple(image_found.margin.tolist()),
        caption_margins=tuple(caption_found.margin.tolist()),
    )


def _gallery(pairs: list[Pair], captions_per_image: int | None) -> tuple[list[Any], list[str], np.ndarray]:
    """Different images, all their captions image by image, and for each caption the number of its image."""
    for index, pair in enumerate(pairs):
        if not pair.captions:
            raise BadInput(f"{pair.where or f'pair {index}'}: no short caption; retrieval needs one for each image")
    first, index = number_unique([image_key(pair.image) for pair in pairs])
    per_image: list[dict[str, None]] = [{} for _ in first]  # a dict keeps the order and drops repeats
    for image, pair in zip(index.tolist(), pairs, strict=True):
        per_image[image].update(dict.fromkeys(pair.captions))
    kept = [list(captions)[:captions_per_image] for captions in per_image]
    owner = np.repeat(np.arange(len(kept)), [len(captions) for captions in kept])
    return [pairs[place].image for place in first], [text for captions in kept for text in captions], owner


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _joined(blocks: list[Ranks]) -> Ranks:
    return Ranks(
        rank=np.concatenate([block.rank for block in blocks]),
        margin=np.concatenate([block.margin for block in blocks]),
        tied=np.concatenate([block.tied for block in blocks]),
    )


def _scores(
    found: Ranks, rights: np.ndarray, candidates: int, ks: Sequence[int], groups: Sequence[int], seed: int
) -> dict[int, Score]:
    different, times = np.unique(rights, return_counts=True)
    scores = {}
    for k in ks:
        # a query with r right candidates misses when the k drawn first are all among the others
        hits = [1 - comb(candidates - r, k) / comb(candidates, min(k, candidates)) for r in different.tolist()]
        chance = 100.0 * float(np.average(hits, weights=times))
        scores[k] = score(found.rank < k, chance, found.tied, groups=list(groups), seed=seed)
    return scores
