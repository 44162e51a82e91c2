"""Scores of the benchmarks from arrays of similarities: pure functions, strict comparisons, ties wrong and counted.

A peer that takes the first of equal scores as its answer gives a collapsed encoder, for which everything is equal,
100 % wherever the right answer stands first. Here that encoder has 0 %, and `ties` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ranks:
    """Per query: how many wrong candidates score at least as high as the best right one, and by how much it leads."""

    rank: np.ndarray  # (queries,) int; 0 is a hit at 1
    margin: np.ndarray  # (queries,) best right minus best wrong; inf where no candidate is wrong
    tied: np.ndarray  # (queries,) bool: a wrong candidate scores exactly as the best right one
    rival: np.ndarray  # (queries,) number of the wrong candidate that scores highest; -1 where none is wrong

    @property
    def ties(self) -> int:
        return int(self.tied.sum())

    def recall(self, k: int) -> float:
        """Percent of the queries with a right candidate among the first `k`."""
        return _percent(self.rank < k)


@dataclass(frozen=True)
class WinogroundScores:
    """Winoground's three scores in percent, and per case what they are made of."""

    text_margin: np.ndarray  # (n,) by how much the right caption leads, for the worse of the two images
    image_margin: np.ndarray  # (n,) by how much the right image leads, for the worse of the two captions
    text_tied: np.ndarray  # (n,) bool: for one of the images both captions score the same
    image_tied: np.ndarray  # (n,) bool: for one of the captions both images score the same

    @property
    def text(self) -> np.ndarray:
        return self.text_margin > 0

    @property
    def image(self) -> np.ndarray:
        return self.image_margin > 0

    @property
    def group(self) -> np.ndarray:
        return self.text & self.image

    @property
    def group_margin(self) -> np.ndarray:
        return np.minimum(self.text_margin, self.image_margin)

    @property
    def tied(self) -> np.ndarray:
        return self.text_tied | self.image_tied

    @property
    def text_score(self) -> float:
        return _percent(self.text)

    @property
    def image_score(self) -> float:
        return _percent(self.image)

    @property
    def group_score(self) -> float:
        return _percent(self.group)

    @property
    def ties(self) -> int:
        return int(self.tied.sum())


@dataclass(frozen=True)
class ChoiceScores:
    """Accuracy in percent of choices between what is right and what is wrong, and per case what it is made of."""

    margin: np.ndarray  # (n,) the score that must be higher minus the one that must be lower; the closest such pair

    @property
    def correct(self) -> np.ndarray:
        return self.margin > 0

    @property
    def tied(self) -> np.ndarray:
        return self.margin == 0

    @property
    def score(self) -> float:
        return _percent(self.correct)

    @property
    def ties(self) -> int:
        return int(self.tied.sum())


def recall_at_k(scores: Any, positives: Any, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Percent of queries with any right candidate in the top k: `recall_at_k(scores, np.eye(8, dtype=bool))[1]`.

    `scores` (queries, candidates); `positives` a bool matrix of that shape, or one set of candidate numbers a query.
    `ranks` has the same per query, with the ties. Raises ValueError as `ranks` does. Rule: COCO and Flickr30k
    retrieval, five captions an image, a hit if any of them is in the top k.
    """
    if min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; each k must be at least 1")
    found = ranks(scores, positives)
    return {k: found.recall(k) for k in ks}


def ranks(scores: Any, positives: Any) -> Ranks:
    """Where the best right candidate stands: `ranks([[0.9, 0.1, 0.9]], [{0}]).rank` -> `[1]`, with `ties == 1`.

    A wrong candidate with the same score stands before the right one. `scores` (queries, candidates); `positives` as
    in `recall_at_k`. Raises ValueError for NaN, for shapes that do not fit and for a query without a right candidate.
    """
    scores = _numbers(scores, "scores", ndim=2)
    right = _bool_matrix(positives, scores.shape)
    lonely = np.flatnonzero(~right.any(axis=1))
    if lonely.size:
        raise ValueError(f"query {lonely[0]} has no right candidate (nor have {lonely.size - 1} others); leave it out")
    best_right = np.where(right, scores, -np.inf).max(axis=1)
    wrong = np.where(right, -np.inf, scores)
    return Ranks(
        rank=((wrong >= best_right[:, None]) & ~right).sum(axis=1),
        margin=best_right - wrong.max(axis=1),
        tied=((wrong == best_right[:, None]) & ~right).any(axis=1),
        rival=np.where(right.all(axis=1), -1, wrong.argmax(axis=1)),
    )


def joined(blocks: Sequence[Ranks]) -> Ranks:
    """The ranks of queries that were scored block by block: `joined([ranks(a, first), ranks(b, second)])`."""
    return Ranks(*(np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(Ranks)))


def winoground(scores: Any) -> WinogroundScores:
    """Winoground's text, image and group score: `winoground(scores).group_score`, `scores` (n, 2, 2).

    `scores[case, i, c]` is the similarity of image i with caption c; i belongs to c where i == c. Text: each image
    prefers its caption; image: each caption prefers its image; group: both. All strict, chance 25, 25 and 16.7 %.
    Raises ValueError for another shape or NaN. Rule: Thrush et al. 2022 (arXiv 2204.03162), section 4.
    """
    scores = _numbers(scores, "scores", ndim=3)
    if scores.shape[1:] != (2, 2):
        raise ValueError(f"scores have shape {scores.shape}; Winoground needs (cases, 2 images, 2 captions)")
    own_0, own_1 = scores[:, 0, 0], scores[:, 1, 1]
    image_0_caption_1, image_1_caption_0 = scores[:, 0, 1], scores[:, 1, 0]
    return WinogroundScores(
        text_margin=np.minimum(own_0 - image_0_caption_1, own_1 - image_1_caption_0),
        image_margin=np.minimum(own_0 - image_1_caption_0, own_1 - image_0_caption_1),
        text_tied=(own_0 == image_0_caption_1) | (own_1 == image_1_caption_0),
        image_tied=(own_0 == image_1_caption_0) | (own_1 == image_0_caption_1),
    )


def sugarcrepe(positive: Any, negative: Any) -> ChoiceScores:
    """SugarCrepe's accuracy: `sugarcrepe(positive, negative).score`, both (n,) similarities with the same images.

    Right where the true caption scores strictly higher; chance 50 %. Raises ValueError for shapes that differ or NaN.
    Rule: `main_eval.py` of RAIVNLab/sugar-crepe (Hsieh et al. 2023).
    """
    positive, negative = _columns(positive=positive, negative=negative)
    return ChoiceScores(margin=positive - negative)


def sugarcrepe_pp_itt(first: Any, second: Any, negative: Any) -> ChoiceScores:
    """SugarCrepe++, image to text: `sugarcrepe_pp_itt(first, second, negative).score`, (n,) similarities with images.

    Right where both true captions score strictly higher than the false one; chance 33.3 %. Raises ValueError for
    shapes that differ or NaN. Rule: Dumpala et al. 2024 (arXiv 2406.11171), section 4, ITT.
    """
    first, second, negative = _columns(first=first, second=second, negative=negative)
    return ChoiceScores(margin=np.minimum(first, second) - negative)


def sugarcrepe_pp_tot(positives: Any, first_negative: Any, second_negative: Any) -> ChoiceScores:
    """SugarCrepe++ by text alone: `sugarcrepe_pp_tot(p1_p2, p1_n, p2_n).score`, (n,) similarities of two captions.

    Right where the two true captions are strictly closer to each other than either is to the false one; chance 33.3 %.
    Raises ValueError for shapes that differ or NaN. Rule: Dumpala et al. 2024 (arXiv 2406.11171), section 4, TOT.
    """
    both, first, second = _columns(positives=positives, first_negative=first_negative, second_negative=second_negative)
    return ChoiceScores(margin=both - np.maximum(first, second))


def choice(true: Any, false: Any) -> ChoiceScores:
    """One true caption among wrong ones: `choice(true, false).score`, true (n,), false (n, m) similarities.

    Right where the true caption scores strictly higher than every wrong one; chance 100 / (1 + m) %. Raises ValueError
    for shapes that do not fit or NaN. Rule: ARO (Yuksekgonul et al. 2023, arXiv 2210.01936), ties not given away.
    """
    true, false = _numbers(true, "true", ndim=1), _numbers(false, "false", ndim=2)
    if len(true) != len(false):
        raise ValueError(f"true has shape {true.shape}, false {false.shape}; each case needs one row of both")
    return ChoiceScores(margin=true - false.max(axis=1))


def macro(correct: Mapping[str, Any]) -> float:
    """Percent right, each category counting the same: `macro({"swap_obj": [1, 0], "add_obj": [1, 1, 1]})` -> 75.0.

    This is how the VladVA paper averages SugarCrepe. Raises ValueError where a category is empty.
    """
    return float(np.mean([_percent(values) for values in _categories(correct).values()]))


def micro(correct: Mapping[str, Any]) -> float:
    """Percent right, each case counting the same: `micro({"swap_obj": [1, 0], "add_obj": [1, 1, 1]})` -> 80.0.

    This is how the SugarCrepe paper and MIEB average. Raises ValueError where a category is empty.
    """
    return _percent(np.concatenate(list(_categories(correct).values())))


def _categories(correct: Mapping[str, Any]) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(values, dtype=bool) for name, values in correct.items()}
    empty = [name for name, values in arrays.items() if values.size == 0]
    if empty or not arrays:
        raise ValueError(f"no cases in {', '.join(empty) or 'any category'}; an average over nothing is no number")
    return arrays


def _percent(correct: np.ndarray) -> float:
    return 100.0 * float(np.mean(correct))


def _numbers(values: Any, name: str, ndim: int) -> np.ndarray:
    if hasattr(values, "detach"):  # a torch tensor; numpy has no bfloat16, and float32 holds all of it
        values = values.detach().cpu()
        values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
    # float64, so that a margin of two float32 scores is zero only where they are equal
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"{name} have shape {array.shape}; needed are {ndim} dimensions, none of them empty")
    odd = int((~np.isfinite(array)).sum())
    if odd:
        raise ValueError(f"{name} hold {odd} values that are NaN or infinite; check the encoder")
    return array


def _columns(**named: Any) -> list[np.ndarray]:
    arrays = {name: _numbers(values, name, ndim=1) for name, values in named.items()}
    if len({array.shape for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"the shapes differ: {shapes}; each case needs one of each")
    return list(arrays.values())


def _bool_matrix(positives: Any, shape: tuple[int, ...]) -> np.ndarray:
    if hasattr(positives, "dtype"):
        matrix = np.asarray(positives)
        if matrix.shape != shape or matrix.dtype != bool:
            raise ValueError(f"positives are {matrix.dtype} {matrix.shape}; needed is a bool matrix {shape}, as scores")
        return matrix
    return _from_index_sets(list(positives), shape)


def _from_index_sets(sets: list[Iterable[int]], shape: tuple[int, ...]) -> np.ndarray:
    if len(sets) != shape[0]:
        raise ValueError(f"positives for {len(sets)} queries, scores for {shape[0]}; give one set a query")
    matrix = np.zeros(shape, dtype=bool)
    for query, indices in enumerate(sets):
        indices = list(indices)
        if any(isinstance(index, bool | np.bool_) or not 0 <= index < shape[1] for index in indices):
            raise ValueError(f"positives of query {query} are {indices}; they must be numbers from 0 to {shape[1] - 1}")
        matrix[query, indices] = True
    return matrix
