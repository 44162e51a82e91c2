"""Metrics from arrays of similarities. Comparisons are strict: a tie is wrong, and counted.

An evaluator that takes the first of equal scores as the answer gives a collapsed encoder, whose scores are all equal,
100 % on any benchmark that lists the right answer first. Here that encoder scores 0 %, and `ties` shows why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Margins:
    """Per case: the score that must be higher minus the score that must be lower, for the closest such pair."""

    margin: np.ndarray  # (n,) right if above zero
    tied: np.ndarray  # (n,) bool: a right and a wrong answer score the same

    @property
    def correct(self) -> np.ndarray:
        return self.margin > 0

    def __getitem__(self, chosen: Any) -> Margins:
        """Select cases by a mask, indices or a slice: `margins[mask].correct`."""
        return Margins(self.margin[chosen], self.tied[chosen])


@dataclass(frozen=True)
class Ranks:
    """Per query: the rank of the best right candidate, and its lead over the best wrong one."""

    rank: np.ndarray  # (queries,) number of wrong candidates that score at least as high; 0 is a hit at 1
    margin: np.ndarray  # (queries,) best right minus best wrong score; inf if no candidate is wrong
    tied: np.ndarray  # (queries,) bool: a wrong candidate scores the same as the best right one
    hardest_negative: np.ndarray  # (queries,) index of the wrong candidate that scores highest; -1 if none is wrong

    def recall(self, k: int) -> float:
        """Return the percentage of queries with a right candidate among the first `k`."""
        return 100.0 * float(np.mean(self.rank < k))


def ranks(scores: Any, positives: Any) -> Ranks:
    """Rank the best right candidate of each query: `ranks([[0.9, 0.1, 0.9]], [{0}]).rank` is [1], with one tie.

        ranks(scores, np.eye(8, dtype=bool)).recall(1)

    `scores` is (queries, candidates); `positives` is a bool matrix of that shape, or one set of candidate indices per
    query. A wrong candidate with the same score ranks before the right one.
    Raises ValueError for NaN, for shapes that do not fit and for a query without a right candidate.
    Rule: COCO and Flickr30k retrieval, a hit if any caption of the image is in the top k.
    """
    scores = check_scores(scores, ndim=2)
    right = _bool_matrix(positives, scores.shape)
    without = np.flatnonzero(~right.any(axis=1))
    if without.size:
        raise ValueError(f"query {without[0]} and {without.size - 1} others have no right candidate; leave them out")
    best_right = np.where(right, scores, -np.inf).max(axis=1)
    wrong = np.where(right, -np.inf, scores)
    return Ranks(
        rank=((wrong >= best_right[:, None]) & ~right).sum(axis=1),
        margin=best_right - wrong.max(axis=1),
        tied=((wrong == best_right[:, None]) & ~right).any(axis=1),
        hardest_negative=np.where(right.all(axis=1), -1, wrong.argmax(axis=1)),
    )


def joined(blocks: Sequence[Ranks]) -> Ranks:
    """Concatenate the ranks of blocks of queries: `joined([ranks(a, first), ranks(b, second)])`."""
    return Ranks(*(np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(Ranks)))


def check_scores(values: Any, ndim: int) -> np.ndarray:
    """Convert scores (array, nested lists or tensor) to float64. Raises ValueError for another shape, empty or NaN."""
    if hasattr(values, "detach"):  # a torch tensor; numpy has no bfloat16, and float32 represents it exactly
        values = values.detach().cpu()
        values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
    # float64, so that the difference of two float32 scores is zero only if they are equal
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"scores have shape {array.shape}; {ndim} dimensions are needed, none of them empty")
    invalid = int((~np.isfinite(array)).sum())
    if invalid:
        raise ValueError(f"scores hold {invalid} values that are NaN or infinite; check the encoder")
    return array


def _bool_matrix(positives: Any, shape: tuple[int, ...]) -> np.ndarray:
    if hasattr(positives, "dtype"):
        matrix = np.asarray(positives)
        if matrix.shape != shape or matrix.dtype != bool:
            raise ValueError(f"positives are {matrix.dtype} {matrix.shape}; a bool matrix {shape} is needed, as scores")
        return matrix
    if len(positives) != shape[0]:
        raise ValueError(f"positives for {len(positives)} queries, scores for {shape[0]}; give one set per query")
    matrix = np.zeros(shape, dtype=bool)
    for query, indices in enumerate(map(list, positives)):
        if any(isinstance(index, bool | np.bool_) or not 0 <= index < shape[1] for index in indices):
            raise ValueError(f"positives of query {query} are {indices}; they must be indices from 0 to {shape[1] - 1}")
        matrix[query, indices] = True
    return matrix
