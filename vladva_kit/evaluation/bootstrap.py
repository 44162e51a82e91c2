"""Statistics of benchmark scores: bootstrap intervals, and McNemar's exact test for two models on the same cases."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vladva_kit.evaluation.metrics import Margins


@dataclass(frozen=True)
class Score:
    """A percentage with its 95 % bootstrap interval, the chance level, and the numbers of cases and ties."""

    percent: float
    low: float
    high: float
    chance: float
    n: int
    ties: int

    def __str__(self) -> str:
        return f"{self.percent:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class McNemar:
    """Cases that only one of two models gets right, and the p-value of that split if they are equally good."""

    only_first: int
    only_second: int
    p_value: float


def score(
    correct: Any, chance: float, tied: Any = False, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> Score:
    """Compute a Score from one bool per case: `str(score([True, False] * 50, chance=25.0))` is "50.0 [40.0, 60.0]".

    `correct` (n,) may also hold grades from 0 to 1. `groups` as in `bootstrap_interval`.
    """
    low, high = bootstrap_interval(correct, seed=seed, groups=groups)
    n = len(correct)
    return Score(100.0 * float(np.mean(correct)), low, high, float(chance), n, int(np.sum(np.broadcast_to(tied, n))))


def category_scores(
    margins: Margins,
    categories: Sequence[str],
    groups: Sequence[Hashable],
    chance: Mapping[str, float],
    means: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> dict[str, Score]:
    """Compute a Score per category and per mean of categories: `scores["swap_obj"]`, `scores["macro"]`.

    `categories` and `groups` hold each case's category and image; `chance` holds the chance level of each category, in
    the order of the result; `means` holds the categories that each mean averages with equal weight.
    Raises ValueError for a category without cases.
    """
    category = np.array(categories)
    indices = {name: np.flatnonzero(category == name) for name in chance}
    empty = [name for name, found in indices.items() if not found.size]
    if empty:
        raise ValueError(f"no cases in {', '.join(empty)}; an average over no cases is undefined")
    group = number_unique(groups)
    # each category has its own random stream, so that resamples of different categories are independent in a mean
    resampled = {
        name: bootstrap_means(margins.correct[found], seed=seed + stream, groups=group[found].tolist())
        for stream, (name, found) in enumerate(indices.items())
    }

    def mean_score(names: Sequence[str]) -> Score:
        low, high = interval_of(np.mean([resampled[name] for name in names], axis=0))
        percent = 100.0 * float(np.mean([margins.correct[indices[name]].mean() for name in names]))
        cases = np.concatenate([indices[name] for name in names])
        chance_level = float(np.mean([chance[name] for name in names]))
        return Score(percent, low, high, chance_level, len(cases), int(margins.tied[cases].sum()))

    return {name: mean_score(names) for name, names in ({name: [name] for name in indices} | dict(means)).items()}


def number_unique(keys: Sequence[Hashable]) -> np.ndarray:
    """Number different keys in order of appearance: `number_unique(["b", "a", "b"])` -> array([0, 1, 0])."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def bootstrap_interval(
    correct: Any, seed: int = 0, resamples: int = 2000, groups: Sequence[Hashable] | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a mean, in percent: `bootstrap_interval(correct)` -> (38.2, 52.9).

    `correct` (n,) holds one bool or number per case. `groups` names the group of each case, such as its image: cases
    of one group are not independent, so they are resampled together. If all cases are right, or all wrong, the interval
    has zero width. Raises ValueError for no cases or groups of another length.
    Source: Efron & Tibshirani 1993, chapter 13.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1, such as 0.95")
    return interval_of(bootstrap_means(correct, seed, resamples, groups), level)


def interval_of(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the central `level` interval of resampled means (resamples,), in percent."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return 100.0 * float(low), 100.0 * float(high)


def bootstrap_means(
    correct: Any, seed: int = 0, resamples: int = 2000, groups: Sequence[Hashable] | None = None
) -> np.ndarray:
    """Resample `correct` (n,) with replacement and return the means (resamples,), as fractions of 1."""
    values = np.asarray(correct, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"correct has shape {values.shape}; give one value per case, and at least one case")
    sums, sizes = values, np.ones_like(values)
    if groups is not None:
        if len(groups) != len(values):
            raise ValueError(f"{len(groups)} groups for {len(values)} cases; give each case its group")
        group = number_unique(groups)
        sums, sizes = np.bincount(group, weights=values), np.bincount(group).astype(np.float64)
    generator = np.random.default_rng(seed)
    means = []
    chunk = max(1, 1_000_000 // len(sums))  # limits memory to some megabytes, however many cases there are
    for start in range(0, resamples, chunk):
        drawn = generator.integers(len(sums), size=(min(chunk, resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def mcnemar(first: Any, second: Any) -> McNemar:
    """Run McNemar's exact two-sided test: `mcnemar(before, after).p_value`, both (n,) bool for the same cases in order.

    Only cases on which the two disagree count. Raises ValueError for shapes that differ.
    Source: McNemar 1947, in the exact binomial form.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"shapes {first.shape} and {second.shape}; give one value per case, for the same cases")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, fewer = only_first + only_second, min(only_first, only_second)
    ways, tail = 1, 0  # integers are exact, however many cases there are
    for k in range(fewer + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**n))
