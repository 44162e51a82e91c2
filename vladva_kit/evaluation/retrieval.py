"""Retrieval in both directions with several captions per image: a hit if any right candidate is in the top k."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from vladva_kit.data.hub import is_on_hub, open_dataset
from vladva_kit.data.pairs import Pair, load_pairs
from vladva_kit.data.validation import collect_errors, error_list
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.identity import image_key
from vladva_kit.embedder.likelihood import LikelihoodScorer
from vladva_kit.evaluation.bootstrap import Score, number_unique, score
from vladva_kit.evaluation.caption_files import (
    FILES,
    CaptionedImage,
    find_caption_file,
    load_caption_dataset,
    load_caption_file,
)
from vladva_kit.evaluation.cases import CaseScore, Result, plain
from vladva_kit.evaluation.encoding import (
    Encoded,
    EncoderOrScorer,
    PairScorer,
    Scored,
    all_dots,
    data_fingerprint,
    encode_once,
    is_scorer,
)
from vladva_kit.evaluation.hub_data import DataSource
from vladva_kit.evaluation.metrics import Ranks, joined, ranks
from vladva_kit.models.images import BadInput

BLOCK = 512  # queries scored at a time: the full matrix of 5,000 x 25,000 scores is never in memory


@dataclass(frozen=True)
class Reranked:
    """R@1 in both directions after the `k` best candidates of each query were ordered by a scorer."""

    k: int
    image_to_text: Score
    text_to_image: Score
    seconds_per_query: float


@dataclass(frozen=True)
class RetrievalResult(Result):
    """R@k in both directions: `result.text_to_image[1].percent`, `result.image_to_text[10].low`.

    Per query, in the order of the images and of the captions (image by image): the rank of the best right candidate
    (0 is first), its lead over the best wrong one (infinite if none is wrong), and the index of that one (or -1).
    `n` counts the queries of both directions.
    """

    image_to_text: dict[int, Score]
    text_to_image: dict[int, Score]
    n_images: int
    n_captions: int
    image_ranks: tuple[int, ...] = field(default=(), repr=False)
    caption_ranks: tuple[int, ...] = field(default=(), repr=False)
    image_margins: tuple[float, ...] = field(default=(), repr=False)
    caption_margins: tuple[float, ...] = field(default=(), repr=False)
    image_hardest_negatives: tuple[int, ...] = field(default=(), repr=False)  # indices of captions
    caption_hardest_negatives: tuple[int, ...] = field(default=(), repr=False)  # indices of images
    captions: tuple[str, ...] = field(default=(), repr=False)
    owners: tuple[int, ...] = field(default=(), repr=False)  # the index of each caption's image
    reranked: Reranked | None = None

    def per_case(self) -> Iterator[CaseScore]:
        """Yield each image and each caption as a query, once for each k; images are named by their first caption."""
        first = dict(reversed(list(zip(self.owners, self.captions, strict=True))))
        images = [first[image] for image in range(self.n_images)]
        wrong_captions = ["" if index < 0 else self.captions[index] for index in self.image_hardest_negatives]
        wrong_images = ["" if index < 0 else images[index] for index in self.caption_hardest_negatives]
        queries = {
            "image_to_text": (range(self.n_images), self.image_ranks, self.image_margins, images, wrong_captions),
            "text_to_image": (self.owners, self.caption_ranks, self.caption_margins, self.captions, wrong_images),
        }
        for direction, columns in queries.items():
            for k in getattr(self, direction):
                for query, (image, rank, margin, caption, other) in enumerate(zip(*columns, strict=True)):
                    name = f"{direction} R@{k}"
                    yield CaseScore(name, str(query), direction, str(image), caption, other, margin, rank < k)

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values; an infinite margin is None."""
        values = plain(self)
        if self.reranked is None:
            del values["reranked"]
        else:
            values["reranked"] |= {one: {"R@1": values["reranked"][one]} for one in ("image_to_text", "text_to_image")}
        for direction in ("image_to_text", "text_to_image"):
            values[direction] = {f"R@{k}": recall for k, recall in values[direction].items()}
        hidden = ("image_ranks", "caption_ranks", "image_margins", "caption_margins")
        return values | {name: plain(getattr(self, name)) for name in hidden}


def evaluate_retrieval(
    embedder: EncoderOrScorer,
    source: DataSource | list[Pair],
    split: str = "test",
    ks: Sequence[int] = (1, 5, 10),
    captions_per_image: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    image_folder: str | Path | None = None,
    on_error: str = "raise",
    cache: str | Path | None = None,
    rerank: int | None = None,
    scorer: PairScorer | None = None,
) -> RetrievalResult:
    """Evaluate retrieval in both directions: `evaluate_retrieval(embedder, vk.sample("emoji_pairs")).text_to_image[1]`.

    `source` is anything `load_pairs` takes; a JSON file of captions or its folder, as `load_caption_file` reads it
    (Karpathy's splits, annotations of COCO and nocaps), with the images in `image_folder`; or a hub id whose columns
    are image and captions. `captions_per_image` keeps the first captions of each image; by default the first five in
    the official files of COCO and Flickr30k, as their rule says, and otherwise all. Pairs with the same image are
    one image; a caption of several images is right for all of them. A wrong candidate with the same score ranks first.
    `rerank=10` also orders the 10 best candidates of each query by `scorer`, by default the likelihood under the base
    model, and reports R@1 and seconds per query in `reranked`.
    Chance is that of a random order; intervals resample the captions of one image together.
    Raises BadInput as the readers do, and for a pair without a short caption.
    """
    if not ks or min(ks) < 1 or (captions_per_image is not None and captions_per_image < 1):
        raise ValueError(f"ks is {tuple(ks)}, captions_per_image {captions_per_image}; both must be at least 1")
    if rerank is not None:
        scorer = _scorer(embedder, rerank, scorer)
    skipped = error_list(on_error)
    if captions_per_image is None and (path := find_caption_file(source)):
        captions_per_image = FILES.get(path.name)
    gallery = load_gallery(source, split, image_folder, skipped)
    images, captions, owner = _unique_images(gallery, captions_per_image)
    encoded = encode_once(embedder, images, captions, batch_size, cache)
    right_captions, right_images = _positives(captions, owner)
    if isinstance(encoded, Scored):
        scores = encoded.all_scores()
        by_image, by_caption = ranks(scores, right_captions), ranks(scores.T, right_images)
    else:
        by_image = ranks_in_blocks(encoded.images, encoded.texts, right_captions)
        by_caption = ranks_in_blocks(encoded.texts, encoded.images, right_images)
    reranked = None
    if rerank is not None and scorer is not None and isinstance(encoded, Encoded):
        pairs = Scored.of(scorer, images, captions, encoded.data)
        reranked = _rerank(encoded, pairs, rerank, (right_captions, right_images), owner.tolist(), seed)
    return RetrievalResult(
        reranked=reranked,
        image_to_text=_recalls(by_image, right_captions, len(captions), ks, range(len(images)), seed),
        text_to_image=_recalls(by_caption, right_images, len(images), ks, owner.tolist(), seed),
        n_images=len(images),
        n_captions=len(captions),
        image_ranks=tuple(by_image.rank.tolist()),
        caption_ranks=tuple(by_caption.rank.tolist()),
        image_margins=tuple(by_image.margin.tolist()),
        caption_margins=tuple(by_caption.margin.tolist()),
        image_hardest_negatives=tuple(by_image.hardest_negative.tolist()),
        caption_hardest_negatives=tuple(by_caption.hardest_negative.tolist()),
        captions=tuple(captions),
        owners=tuple(owner.tolist()),
        n=len(images) + len(captions),
        ties=int(by_image.tied.sum() + by_caption.tied.sum()),
        data=data_fingerprint(["retrieval", encoded.data, *map(str, owner.tolist())]),
        skipped=tuple(skipped or ()),
    )


def _scorer(embedder: EncoderOrScorer, k: int, scorer: PairScorer | None) -> PairScorer:
    """Return the scorer for re-ranking. Raises ValueError and TypeError for unusable options."""
    if k < 1 or is_scorer(embedder):
        raise ValueError(f"rerank={k}: pass at least 1, with a model that embeds; a scorer has ranked all candidates")
    if scorer is not None:
        return scorer
    if not isinstance(embedder, Embedder):
        raise TypeError(f"a {type(embedder).__name__} cannot score pairs: pass scorer=LikelihoodScorer(lvlm)")
    return LikelihoodScorer(embedder.lvlm)


def _rerank(
    encoded: Encoded,
    pairs: Scored,
    k: int,
    positives: tuple[list[set[int]], list[set[int]]],
    owners: list[int],
    seed: int,
) -> Reranked:
    """Order the k best candidates of each image and of each caption by a scorer, in one run over all of them."""
    by_image = _best(encoded.images, encoded.texts, k)
    by_caption = _best(encoded.texts, encoded.images, k)
    images = np.concatenate([np.repeat(np.arange(len(by_image)), by_image.shape[1]), by_caption.ravel()])
    captions = np.concatenate([by_image.ravel(), np.repeat(np.arange(len(by_caption)), by_caption.shape[1])])
    start = time.perf_counter()
    scores = pairs.pair_scores(images, captions, allow_nan=True)
    seconds = (time.perf_counter() - start) / (len(by_image) + len(by_caption))
    scores = np.where(np.isfinite(scores), scores, -np.inf)  # NaN never ranks first
    parts = scores[: by_image.size].reshape(by_image.shape), scores[by_image.size :].reshape(by_caption.shape)
    first = _first_is_right(by_image, parts[0], positives[0], len(encoded.texts), range(len(by_image)), seed)
    return Reranked(k, first, _first_is_right(by_caption, parts[1], positives[1], len(by_image), owners, seed), seconds)


def _first_is_right(
    best: np.ndarray, scores: np.ndarray, positives: list[set[int]], n: int, groups: Sequence[int], seed: int
) -> Score:
    """Compute R@1 of candidates (queries, k), of n in all, by their new scores; a tie is wrong."""
    is_right = np.array([[one in right for one in row] for row, right in zip(best.tolist(), positives, strict=True)])
    right_score = np.where(is_right, scores, -np.inf).max(axis=1)
    wrong_score = np.where(is_right, -np.inf, scores).max(axis=1)
    tied = (right_score == wrong_score) & is_right.any(axis=1)
    chance = 100.0 * float(np.mean([len(right) for right in positives])) / n
    return score(right_score > wrong_score, chance, tied, list(groups), seed)


def _best(queries: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of each query's k best candidates, (queries, k), best first; `BLOCK` queries at a time."""
    blocks = (queries[start : start + BLOCK] for start in range(0, len(queries), BLOCK))
    return np.concatenate([np.argsort(-all_dots(block, candidates), axis=1, kind="stable")[:, :k] for block in blocks])


def load_gallery(
    source: Any, split: str = "test", image_folder: str | Path | None = None, skipped: list[str] | None = None
) -> list[CaptionedImage]:
    """Read and check images with their captions, as `evaluate_retrieval` does."""
    if is_on_hub(source):
        return load_caption_dataset(open_dataset(source, split), skipped, split)
    if find_caption_file(source):
        return load_caption_file(source, image_folder, split, skipped)
    pairs = load_pairs(source, split, "raise" if skipped is None else "skip", skipped)
    for index, pair in enumerate(pairs):
        with collect_errors(skipped):
            if not pair.captions:
                raise BadInput(f"{pair.where or f'pair {index}'}: no short caption; each image needs at least one")
    return [CaptionedImage(pair.image, pair.captions) for pair in pairs if pair.captions]


def _file(image: Any) -> Any:
    """Return the path of an image, also of one in an archive: one photo under two names counts as two images."""
    return image.resolve() if isinstance(image, Path) else getattr(image, "path", None) or image_key(image)


def _unique_images(
    gallery: list[CaptionedImage], captions_per_image: int | None
) -> tuple[list[Any], list[str], np.ndarray]:
    """Return the different images, their captions image by image, and the image index of each caption."""
    index = number_unique([_file(item.image) for item in gallery])
    captions: list[list[str]] = [[] for _ in range(int(index.max()) + 1)]
    for image, item in zip(index.tolist(), gallery, strict=True):
        captions[image] += item.captions
    captions = [texts[:captions_per_image] for texts in captions]
    owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    images = [gallery[position].image for position in np.unique(index, return_index=True)[1]]
    return images, [text for texts in captions for text in texts], owner


def _positives(captions: list[str], owner: np.ndarray) -> tuple[list[set[int]], list[set[int]]]:
    """Return each image's right captions and each caption's right images, as indices; equal texts count as one."""
    images: dict[str, set[int]] = defaultdict(set)
    indices: dict[str, set[int]] = defaultdict(set)
    for index, (text, image) in enumerate(zip(captions, owner.tolist(), strict=True)):
        images[text].add(image)
        indices[text].add(index)
    right_captions: list[set[int]] = [set() for _ in range(int(owner.max()) + 1)]
    for text, image in zip(captions, owner.tolist(), strict=True):
        right_captions[image] |= indices[text]
    return right_captions, [images[text] for text in captions]


def ranks_in_blocks(queries: np.ndarray, candidates: np.ndarray, positives: Sequence[set[int]]) -> Ranks:
    """Rank the best right candidate of each query: `ranks_in_blocks(images, texts, positives).recall(1)`.

    `queries` (n, dim) and `candidates` (m, dim) are unit vectors; `positives` has the indices of each query's right
    candidates. `BLOCK` queries are scored at a time, so the (n, m) scores are never in memory at once.
    """
    starts = tqdm(range(0, len(queries), BLOCK), desc="ranks", delay=10, leave=False)
    blocks = (slice(start, start + BLOCK) for start in starts)
    return joined([ranks(all_dots(queries[block], candidates), positives[block]) for block in blocks])


def _recalls(
    ranked: Ranks, positives: list[set[int]], candidates: int, ks: Sequence[int], groups: Sequence[int], seed: int
) -> dict[int, Score]:
    counts, times = np.unique([len(right) for right in positives], return_counts=True)
    scores = {}
    for k in ks:
        # a query with r right candidates misses if the first k of a random order are all wrong
        hits = [1 - comb(candidates - r, k) / comb(candidates, min(k, candidates)) for r in counts.tolist()]
        chance = 100.0 * float(np.average(hits, weights=times))
        scores[k] = score(ranked.rank < k, chance, ranked.tied, list(groups), seed)
    return scores
