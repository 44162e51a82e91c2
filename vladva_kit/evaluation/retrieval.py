"""Retrieval both ways, several captions an image: a hit if any right candidate is in the top k."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import comb, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.data.pairs import Pair, load_pairs
from vladva_kit.data.validation import error_list
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.caption_files import (
    Captioned,
    captions_that_count,
    gallery_of_dataset,
    has_caption_file,
    load_caption_file,
)
from vladva_kit.evaluation.encoding import (
    ImageTextEncoder,
    all_dots,
    data_fingerprint,
    encode_once,
    image_key,
    number_unique,
)
from vladva_kit.evaluation.hub_data import hub_dataset, is_hub_id
from vladva_kit.evaluation.metrics import Ranks, joined, ranks
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

BLOCK = 512  # queries scored at a time: a 5,000 x 25,000 matrix never stands in memory whole


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
    image_rivals: tuple[int, ...] = field(default=(), repr=False)  # the best wrong caption of each image, or -1
    caption_rivals: tuple[int, ...] = field(default=(), repr=False)  # the best wrong image of each caption, or -1
    captions: tuple[str, ...] = field(default=(), repr=False)
    owners: tuple[int, ...] = field(default=(), repr=False)  # which image each caption was written for
    data: str = ""  # fingerprint of the images and captions
    skipped: tuple[str, ...] = ()  # why a pair was left out, where that was asked for

    def margins(self) -> Iterator[CaseScore]:
        """Each image and each caption as a query, once for each k; an image is told by its first caption."""
        first: dict[int, str] = {}
        for owner, caption in zip(self.owners, self.captions, strict=True):
            first.setdefault(owner, caption)
        wrong_captions = ["" if at < 0 else self.captions[at] for at in self.image_rivals]
        wrong_images = ["" if at < 0 else first[at] for at in self.caption_rivals]
        own = [first[image] for image in range(self.n_images)]
        images = (range(self.n_images), self.image_ranks, self.image_margins, own, wrong_captions)
        texts = (self.owners, self.caption_ranks, self.caption_margins, self.captions, wrong_images)
        for way, ks, queries in (
            ("image_to_text", self.image_to_text, images),
            ("text_to_image", self.text_to_image, texts),
        ):
            for k in ks:
                for case, (owner, rank, margin, caption, other) in enumerate(zip(*queries, strict=True)):
                    yield CaseScore(f"{way} R@{k}", str(case), way, str(owner), caption, other, margin, rank < k)

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
            "data": self.data,
            "skipped": list(self.skipped),
            **plain,
        }


def evaluate_retrieval(
    embedder: ImageTextEncoder,
    source: str | Path | datasets.Dataset | list[Pair],
    split: str = "test",
    ks: Sequence[int] = (1, 5, 10),
    captions_per_image: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    image_folder: str | Path | None = None,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> RetrievalResult:
    """Retrieval both ways: `evaluate_retrieval(embedder, vk.sample("emoji_pairs")).text_to_image[1].percent`.

    `source` is anything `load_pairs` takes; a JSON file of captions or its folder, as `load_caption_file` reads them
    (Karpathy's splits, COCO's and nocaps' annotations), with the images in `image_folder`; or a hub id whose columns
    are image and captions. `captions_per_image` keeps the first few captions of an image; where it is not given, the
    first five in COCO's and Flickr30k's official files, as is their rule, and else all. Pairs that name the same image
    are one image. A caption that stands with several images is right for all of them. Each image
    and caption is encoded once; `cache` is a folder that keeps embeddings, see `encode_once`. A wrong candidate that
    ties is ranked before the right one, and counted. Chance is that of a random order; intervals draw the captions of
    one image together. Scores are taken `BLOCK` queries at a time.
    Raises BadInput as the readers do, and for a pair without a short caption, unless `on_error="skip"` leaves such
    pairs out and counts them in `skipped`.
    """
    if not ks or min(ks) < 1 or (captions_per_image is not None and captions_per_image < 1):
        raise ValueError(f"ks is {tuple(ks)}, captions_per_image {captions_per_image}; both must be at least 1")
    skipped = error_list(on_error)
    if captions_per_image is None and isinstance(source, str | Path) and has_caption_file(Path(source)):
        captions_per_image = captions_that_count(Path(source))
    gallery = load_gallery(source, split, image_folder, skipped)
    images, captions, owner = _different_images(gallery, captions_per_image)
    encoded = encode_once(embedder, images, captions, batch_size, cache)
    right_captions, right_images = _right_ones(captions, owner)
    image_found = ranks_in_blocks(encoded.images, encoded.texts, right_captions)
    caption_found = ranks_in_blocks(encoded.texts, encoded.images, right_images)
    rights_image = np.array([len(right) for right in right_captions])
    rights_text = np.array([len(right) for right in right_images])
    return RetrievalResult(
        image_to_text=_scores(image_found, rights_image, len(captions), ks, range(len(images)), seed),
        text_to_image=_scores(caption_found, rights_text, len(images), ks, owner.tolist(), seed),
        n_images=len(images),
        n_captions=len(captions),
        image_ranks=tuple(image_found.rank.tolist()),
        caption_ranks=tuple(caption_found.rank.tolist()),
        image_margins=tuple(image_found.margin.tolist()),
        caption_margins=tuple(caption_found.margin.tolist()),
        image_rivals=tuple(image_found.rival.tolist()),
        caption_rivals=tuple(caption_found.rival.tolist()),
        captions=tuple(captions),
        owners=tuple(owner.tolist()),
        data=data_fingerprint(["retrieval", encoded.data, *map(str, owner.tolist())]),
        skipped=tuple(skipped or ()),
    )


def load_gallery(
    source: str | Path | datasets.Dataset | list[Pair],
    split: str = "test",
    image_folder: str | Path | None = None,
    skipped: list[str] | None = None,
) -> list[Captioned]:
    """The images of a retrieval benchmark with their captions, read and checked, as `evaluate_retrieval` takes them.

    With a list `skipped`, refused pairs are noted there and the others returned.
    """
    if is_hub_id(source):
        return gallery_of_dataset(hub_dataset(str(source), split), skipped, split)
    if isinstance(source, str | Path) and has_caption_file(Path(source)):
        return load_caption_file(source, image_folder, split, skipped)
    pairs = load_pairs(source, split, "raise" if skipped is None else "skip", skipped)
    bare = [pair.where or f"pair {index}" for index, pair in enumerate(pairs) if not pair.captions]
    if bare and skipped is None:
        raise BadInput(f"{bare[0]}: no short caption; retrieval needs one for each image")
    if skipped is not None:
        skipped += [f"{where}: no short caption; retrieval needs one for each image" for where in bare]
    return [Captioned(pair.image, pair.captions) for pair in pairs if pair.captions]


def _different_images(
    gallery: list[Captioned], captions_per_image: int | None
) -> tuple[list[Any], list[str], np.ndarray]:
    """Different images, all their captions image by image, and for each caption the number of its image."""
    first, index = number_unique([image_key(one.image) for one in gallery])
    per_image: list[list[str]] = [[] for _ in first]
    for image, one in zip(index.tolist(), gallery, strict=True):
        per_image[image] += one.captions
    kept = [captions[:captions_per_image] for captions in per_image]
    owner = np.repeat(np.arange(len(kept)), [len(captions) for captions in kept])
    return [gallery[place].image for place in first], [text for captions in kept for text in captions], owner


def _right_ones(captions: list[str], owner: np.ndarray) -> tuple[list[set[int]], list[set[int]]]:
    """For each image the numbers of its captions, and for each caption those of its images; equal texts are one."""
    images_of: dict[str, set[int]] = {}
    places_of: dict[str, list[int]] = {}
    texts_of: list[list[str]] = [[] for _ in range(int(owner.max()) + 1)]
    for place, (text, image) in enumerate(zip(captions, owner.tolist(), strict=True)):
        images_of.setdefault(text, set()).add(image)
        places_of.setdefault(text, []).append(place)
        texts_of[image].append(text)
    right_captions = [{place for text in texts for place in places_of[text]} for texts in texts_of]
    return right_captions, [images_of[text] for text in captions]


def ranks_in_blocks(queries: np.ndarray, candidates: np.ndarray, right: Sequence[set[int]]) -> Ranks:
    """Where the best right candidate stands for each query: `ranks_in_blocks(images, texts, right).recall(1)`.

    queries (n, dim), candidates (m, dim), unit vectors; `right` has each query's own candidates. Scores are taken
    `BLOCK` queries at a time, so that (n, m) numbers never stand in memory.
    """
    from tqdm.auto import tqdm

    starts = tqdm(range(0, len(queries), BLOCK), desc="ranks", delay=10, leave=False)
    blocks = (slice(start, start + BLOCK) for start in starts)
    return joined([ranks(all_dots(queries[at], candidates), right[at]) for at in blocks])


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
