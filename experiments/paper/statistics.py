"""Statistics over a variant's seeds: mean and standard deviation, and paired differences between two variants.

Intervals and tests are those of `vladva_kit.evaluation.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.paper.measures import correct_cases, images_of
from vladva_kit.evaluation.bootstrap import Score, bootstrap_means, interval_of, mcnemar

Records = Sequence[Mapping[str, Any]]  # the runs of a variant, one per seed


@dataclass(frozen=True)
class Gain:
    """Percentage points by which the second variant beats the first, with a paired 95 % interval over the cases."""

    points: float
    low: float
    high: float
    p_values: tuple[float, ...]  # McNemar's exact test, one per seed

    @property
    def outcome(self) -> str:
        """ "higher" or "lower" if the interval excludes 0, else "n.s."."""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "n.s."

    def __str__(self) -> str:
        points, low, high = (round(value, 1) + 0.0 for value in (self.points, self.low, self.high))  # no "−0.0"
        return f"{points:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")


def estimate(records: Records, measures: Sequence[str]) -> Score | None:
    """Return the mean of these measures over measures and seeds; None if a record lacks one of them.

        estimate(records, ["winoground/seen/group"]).percent

    Each measure counts the same, as in SugarCrepe's macro average. Images are resampled over all measures, since
    categories share images. A case counts by the share of seeds that have it correct.
    """
    if not _measured(records, measures):
        return None
    correct = [_correct(records, name) for name in measures]
    per_seed = np.mean([100 * cases.mean(axis=1) for cases in correct], axis=0)
    low, high = _interval([cases.mean(axis=0) for cases in correct], records, measures)
    chances = [records[0]["measures"][name]["chance"] for name in measures]
    return Score(
        percent=float(per_seed.mean()),
        low=low,
        high=high,
        chance=None if None in chances else float(np.mean(chances)),
        n=sum(cases.shape[1] for cases in correct),
        ties=sum(record["measures"][name]["ties"] for record in records for name in measures),
        sd=float(np.std(per_seed, ddof=1)) if len(records) > 1 else None,
    )


def gain(first: Records, second: Records, measures: Sequence[str]) -> Gain | None:
    """Return by how much the second variant beats the first on the same cases; None if a record lacks a measure.

        gain(base, tuned, ["winoground/seen/group"]).outcome

    Seeds are paired in order; a variant with a single run is paired with every seed of the other.
    Raises ValueError for different cases, or for numbers of seeds that cannot be paired.
    """
    if not _measured([*first, *second], measures):
        return None
    seeds = max(len(first), len(second))
    if {len(first), len(second)} - {1, seeds}:
        raise ValueError(f"{len(first)} and {len(second)} seeds cannot be paired: give equally many, or a single run")
    before, after = ([_correct(records, name) for name in measures] for records in (first, second))
    for name, one, other in zip(measures, before, after, strict=True):
        if one.shape[1] != other.shape[1]:
            raise ValueError(f"{name}: {one.shape[1]} and {other.shape[1]} cases; evaluate both on the same cases")
    changes = [other.mean(axis=0) - one.mean(axis=0) for one, other in zip(before, after, strict=True)]
    low, high = _interval(changes, first, measures)
    pooled = [np.concatenate(cases, axis=1) for cases in (before, after)]
    pairs = zip(*(np.broadcast_to(cases, (seeds, cases.shape[1])) for cases in pooled), strict=True)
    points = 100 * float(np.mean([change.mean() for change in changes]))
    return Gain(points, low, high, tuple(mcnemar(one, other).p_value for one, other in pairs))


def _measured(records: Records, measures: Sequence[str]) -> bool:
    return bool(records) and all(name in record["measures"] for record in records for name in measures)


def _correct(records: Records, name: str) -> np.ndarray:
    """(seeds, cases) bool."""
    return np.array([correct_cases(record["measures"][name]) for record in records])


def _interval(values: Sequence[np.ndarray], records: Records, measures: Sequence[str]) -> tuple[float, float]:
    """Return the interval of the mean over measures, given each measure's values per case."""
    images = [image for name in measures for image in images_of(records[0]["measures"][name])]
    parts = [name for name, cases in zip(measures, values, strict=True) for _ in cases]
    return interval_of(bootstrap_means(np.concatenate(values), groups=images, parts=parts))
