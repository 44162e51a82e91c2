"""Statistics of benchmark scores: bootstrap intervals, and McNemar's exact test for two models on the same cases."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vladva_kit.evaluation.metrics import Margins


@dataclass(frozen=True)
class Score:
    """A percentage with its 95 % bootstrap interval, the chance level, and the numbers of cases and ties.

    A mean over several runs has their standard deviation; its interval resamples the cases, not the runs.
    """

    percent: float
    low: float
    high: float
    chance: float | None  # None where no answer can be right by chance, as for a free caption
    n: int
    ties: int
    sd: float | None = field(default=None, repr=False)  # over runs; None for a single run

    @property
    def short(self) -> str:
        """The score without its interval: "97.4", or "97.4 ± 0.3" over several runs."""
        return f"{self.percent:.1f}" + ("" if self.sd is None else f" ± {self.sd:.1f}")

    def __str__(self) -> str:
        return f"{self.short} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class McNemar:
    """Cases that only one of two models gets right, and the p-value of that split if they are equally good."""

    only_first: int
    only_second: int
    p_value: float


def score(
    correct: Any, chance: float | None, tied: Any = False, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> Score:
    """Compute a Score from one bool per case: `str(score([True, False] * 50, chance=25.0))` is "50.0 [40.0, 60.0]".

    `correct` (n,) may also hold grades from 0 to 1. `groups` as in `bootstrap_interval`.
    """
    low, high = bootstrap_interval(correct, seed=seed, groups=groups)
    n = len(correct)
    return Score(100.0 * float(np.mean(correct)), low, high, chance, n, int(np.sum(np.broadcast_to(tied, n))))


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
    the order of the result; `means` holds the categories that each mean averages with equal weight. Categories share
    images, so a mean resamples images over all of its categories.
    Raises ValueError for a category without cases.
    """
    category, group = np.array(categories), number_unique(groups)
    indices = {name: np.flatnonzero(category == name) for name in chance}
    empty = [name for name, found in indices.items() if not found.size]
    if empty:
        raise ValueError(f"no cases in {', '.join(empty)}; an average over no cases is undefined")

    def mean_score(names: Sequence[str]) -> Score:
        cases = np.sort(np.concatenate([indices[name] for name in names]))
        correct = margins.correct[cases]
        low, high = interval_of(bootstrap_means(correct, seed, groups=group[cases], parts=category[cases]))
        percent = 100.0 * float(np.mean([margins.correct[indices[name]].mean() for name in names]))
        chance_level = float(np.mean([chance[name] for name in names]))
        return Score(percent, low, high, chance_level, len(cases), int(margins.tied[cases].sum()))

    return {name: mean_score(names) for name, names in ({name: [name] for name in indices} | dict(means)).items()}


def number_unique(keys: Sequence[Hashable]) -> np.ndarray:
    """Number different keys in order of appearance: `number_unique(["b", "a", "b"])` -> array([0, 1, 0])."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def groups_sharing(images: np.ndarray) -> list[int]:
    """Group cases (n, k images) that share an image, directly or through others: [[0, 1], [2, 3], [1, 4]] -> [0, 1, 0].

    A group is named by its first case.
    """
    group = np.arange(len(images))
    while True:
        first = np.full(images.max() + 1, len(images))
        np.minimum.at(first, images, group[:, None])
        linked = first[images].min(axis=1)
        if (linked == group).all():
            return group.tolist()
        group = linked


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
    correct: Any,
    seed: int = 0,
    resamples: int = 2000,
    groups: Sequence[Hashable] | None = None,
    parts: Sequence[Hashable] | None = None,
) -> np.ndarray:
    """Resample `correct` (n,) with replacement and return the means (resamples,), as fractions of 1.

        bootstrap_means(correct, groups=images, parts=categories)    # resampled macro averages

    `groups` as in `bootstrap_interval`. `parts` names the part of each case, such as its category: the mean is then
    that of the parts' means. A part without a case in a resample is left out of its mean.
    """
    values = np.asarray(correct, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"correct has shape {values.shape}; give one value per case, and at least one case")
    group, part = np.arange(len(values)), np.zeros(len(values), dtype=np.int64)
    if groups is not None:
        group = _numbers(groups, "groups", len(values))
    if parts is not None:
        part = _numbers(parts, "parts", len(values))
    n_groups = int(group.max()) + 1
    # a cell holds the cases of a group in a part; cells are sorted by part, so that each part is a run of cells
    cells, cell = np.unique(part * n_groups + group, return_inverse=True)
    sums, sizes = np.bincount(cell, weights=values), np.bincount(cell).astype(np.float64)
    cell_part, cell_group = np.divmod(cells, n_groups)
    starts = np.flatnonzero(np.diff(cell_part, prepend=-1))
    generator = np.random.default_rng(seed)
    means = []
    chunk = max(1, 1_000_000 // len(cells))  # limits memory to some megabytes, however many cases there are
    for start in range(0, resamples, chunk):
        n = min(chunk, resamples - start)
        drawn = generator.integers(n_groups, size=(n, n_groups)) + n_groups * np.arange(n)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n * n_groups).reshape(n, n_groups)[:, cell_group]
        total, size = (np.add.reduceat(counts * cell, starts, axis=1) for cell in (sums, sizes))  # (n, parts)
        means.append((total / np.maximum(size, 1)).sum(axis=1) / (size > 0).sum(axis=1))
    return np.concatenate(means)


def _numbers(keys: Sequence[Hashable], name: str, n: int) -> np.ndarray:
    if len(keys) != n:
        raise ValueError(f"{len(keys)} {name} for {n} cases; give each case its {name.removesuffix('s')}")
    return number_unique(keys.tolist() if isinstance(keys, np.ndarray) else keys)


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
