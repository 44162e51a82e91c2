"""How far a figure can be trusted: bootstrap intervals, and McNemar's exact test for two encoders on the same cases."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vladva_kit.evaluation.metrics import ChoiceScores


@dataclass(frozen=True)
class Score:
    """A figure in percent with its 95 % bootstrap interval, what guessing gives, and the cases it stands on."""

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
    """Cases that only one of two encoders has right, and how likely a split as uneven is if they are equally good."""

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Paired:
    """By how many percentage points the second of two encoders is better on the same cases, with a 95 % interval."""

    difference: float
    low: float
    high: float
    mcnemar: McNemar
    n: int


def score(
    correct: Any,
    chance: float,
    tied: Any = False,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Score:
    """A Score from one bool a case: `str(score([True, False] * 50, chance=25.0))` -> "50.0 [40.0, 60.0]" or so."""
    low, high = bootstrap_interval(correct, seed=seed, resamples=resamples, groups=groups)
    n = len(correct)
    return Score(100.0 * float(np.mean(correct)), low, high, float(chance), n, int(np.sum(np.broadcast_to(tied, n))))


def category_scores(
    found: ChoiceScores,
    categories: Sequence[str],
    groups: Sequence[Hashable],
    chance: Mapping[str, float],
    means: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> dict[str, Score]:
    """A Score for each category, and for each mean of categories: `scores["swap_obj"]`, `scores["macro"]`.

    `categories` and `groups` name each case's category and image; `chance` has what guessing gives in each category, in
    their order; `means` has the categories that each mean counts the same. Raises ValueError for a category without a
    case.
    """
    of_category = np.array(categories)
    parts = {name: np.flatnonzero(of_category == name) for name in chance}
    empty = [name for name, places in parts.items() if not places.size]
    if empty:
        raise ValueError(f"no cases in {', '.join(empty)}; an average over nothing is no number")
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(one, len(numbers)) for one in groups])
    # category by category, each with a stream of its own, so that their resamples are independent in a mean
    resampled = {
        name: bootstrap_means(found.correct[places], seed=seed + place, groups=group[places].tolist())
        for place, (name, places) in enumerate(parts.items())
    }

    def mean_of(names: Sequence[str]) -> Score:
        low, high = interval_of(np.mean([resampled[name] for name in names], axis=0))
        percent = 100.0 * float(np.mean([found.correct[parts[name]].mean() for name in names]))
        places = np.concatenate([parts[name] for name in names])
        guessing = float(np.mean([chance[name] for name in names]))
        return Score(percent, low, high, guessing, len(places), int(found.tied[places].sum()))

    return {name: mean_of(names) for name, names in ({name: [name] for name in parts} | dict(means)).items()}


def bootstrap_interval(
    correct: Any,
    seed: int = 0,
    resamples: int = 2000,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, in percent: `bootstrap_interval(correct)` -> `(38.2, 52.9)`.

    `correct` (n,) is one bool or number a case. `groups` names what each case belongs to (its image, say): cases of one
    group are not independent, so they are drawn together. Where all cases are right, or none, the interval has no
    width: the cases say nothing of what they have not met. Raises ValueError for no cases or groups of another length.
    Source: Efron & Tibshirani 1993, chapter 13.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, as 0.95")
    return interval_of(bootstrap_means(correct, seed, resamples, groups), level)


def interval_of(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of resampled means (resamples,), in percent."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return 100.0 * float(low), 100.0 * float(high)


def bootstrap_means(
    correct: Any, seed: int = 0, resamples: int = 2000, groups: Sequence[Hashable] | None = None
) -> np.ndarray:
    """Means of `correct` (n,) over cases drawn anew with replacement -> (resamples,), each between 0 and 1."""
    values = np.asarray(correct, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"correct has shape {values.shape}; needed is one value a case, and at least one case")
    sums, sizes = values, np.ones_like(values)
    if groups is not None:
        if len(groups) != len(values):
            raise ValueError(f"{len(groups)} groups for {len(values)} cases; give each case its group")
        numbers: dict[Hashable, int] = {}
        member = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
        sums, sizes = np.bincount(member, weights=values), np.bincount(member).astype(np.float64)
    generator = np.random.default_rng(seed)
    means = []
    chunk = max(1, 1_000_000 // len(sums))  # some megabytes at a time, however many the cases
    for start in range(0, resamples, chunk):
        drawn = generator.integers(len(sums), size=(min(chunk, resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def mcnemar(first: Any, second: Any) -> McNemar:
    """Exact two-sided McNemar test: `mcnemar(before, after).p_value`, both (n,) bool on the same cases in one order.

    Only cases where the two disagree count; under equality each falls either way like a coin. Raises ValueError for
    shapes that differ. McNemar 1947, in the exact binomial form.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"shapes {first.shape} and {second.shape}; give one value a case, for the same cases")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, fewer = only_first + only_second, min(only_first, only_second)
    ways, tail = 1, 0  # whole numbers: no rounding, however many the cases
    for k in range(fewer + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**n))


def paired(first: Any, second: Any, groups: Sequence[Hashable] | None = None, seed: int = 0) -> Paired:
    """Two encoders on the same cases: `paired(before, after).low > 0` where the second is clearly better.

    Both (n,) bool in one order. The interval draws cases anew, both answers of a case together; `groups` as in
    `bootstrap_interval`. Raises ValueError for shapes that differ.
    """
    counted = mcnemar(first, second)
    change = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    low, high = bootstrap_interval(change, seed=seed, groups=groups)
    return Paired(100.0 * float(change.mean()), low, high, counted, len(change))
