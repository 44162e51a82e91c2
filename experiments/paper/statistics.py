"""A row's figures over its seeds, and whether two rows differ: by cases, paired, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.paper.measures import cases_right
from vladva_kit.evaluation.bootstrap import bootstrap_means, interval_of, mcnemar

Cells = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Estimate:
    """A figure in percent: its mean and standard deviation over the seeds, and a 95 % interval over the cases."""

    mean: float
    sd: float | None  # None for one seed
    low: float
    high: float
    chance: float
    n: int  # cases
    seeds: int
    ties: int  # over all seeds

    @property
    def short(self) -> str:
        """Without the interval: "97.4 ± 0.3"."""
        return f"{self.mean:.1f}" + ("" if self.sd is None else f" ± {self.sd:.1f}")

    def __str__(self) -> str:
        return f"{self.short} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Difference:
    """By how many points the second row lies above the first, with its paired 95 % interval; McNemar's p a seed."""

    mean: float
    low: float
    high: float
    p_values: tuple[float, ...]

    @property
    def outcome(self) -> str:
        """ "above" or "below" where the interval leaves out 0, else "level"."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "level"

    def __str__(self) -> str:
        mean, low, high = (round(value, 1) + 0.0 for value in (self.mean, self.low, self.high))  # no "−0.0"
        return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")


def estimate(cells: Cells, measures: Sequence[str]) -> Estimate | None:
    """The mean of these measures, as SugarCrepe's macro is; None where a cell lacks one.

        estimate(cells, ["winoground/seen/group"]).mean

    A case counts by its share of right seeds, and cases are drawn anew, each measure's by themselves: the interval
    says what other cases might have given to these very models; what other seeds might is the standard deviation.
    """
    if not _have(cells, measures):
        return None
    each = [float(np.mean([100 * cases_right(cell["measures"][name]).mean() for name in measures])) for cell in cells]
    means = np.mean([_resampled(cells, name, place) for place, name in enumerate(measures)], axis=0)
    low, high = interval_of(means)
    first = [cells[0]["measures"][name] for name in measures]
    return Estimate(
        mean=float(np.mean(each)),
        sd=float(np.std(each, ddof=1)) if len(each) > 1 else None,
        low=low,
        high=high,
        chance=float(np.mean([measure["chance"] for measure in first])),
        n=sum(len(measure["right"]) for measure in first),
        seeds=len(cells),
        ties=sum(cell["measures"][name]["ties"] for cell in cells for name in measures),
    )


def difference(first: Cells, second: Cells, measures: Sequence[str]) -> Difference | None:
    """What the second row has over the first on the same cases; None where one lacks a measure.

    A row that was trained from several seeds is held against the other's of the same place, or against its only one.
    Raises ValueError for rows judged on other cases, or with numbers of seeds that cannot be paired.
    """
    if not _have([*first, *second], measures):
        return None
    seeds = max(len(first), len(second))
    if {len(first), len(second)} - {1, seeds}:
        raise ValueError(f"{len(first)} and {len(second)} seeds: give as many of both, or one of one")
    resampled, points, rights = [], [], ([], [])
    for place, name in enumerate(measures):
        right = [np.array([cases_right(cell["measures"][name]) for cell in cells]) for cells in (first, second)]
        if right[0].shape[1] != right[1].shape[1]:
            raise ValueError(f"{name}: {right[0].shape[1]} and {right[1].shape[1]} cases; judge both on the same")
        gained = right[1].mean(0) - right[0].mean(0)
        together = first[0]["measures"][name]["together"]
        resampled.append(bootstrap_means(gained, seed=place, groups=_groups(len(gained), together)))
        points.append(100 * gained.mean())
        for side in (0, 1):
            rights[side].append(np.broadcast_to(right[side], (seeds, right[side].shape[1])))
    both = [np.concatenate(parts, axis=1) for parts in rights]
    low, high = interval_of(np.mean(resampled, axis=0))
    p_values = tuple(mcnemar(one, other).p_value for one, other in zip(*both, strict=True))
    return Difference(float(np.mean(points)), low, high, p_values)


def _have(cells: Cells, measures: Sequence[str]) -> bool:
    return bool(cells) and all(name in cell["measures"] for cell in cells for name in measures)


def _resampled(cells: Cells, name: str, seed: int) -> np.ndarray:
    """Bootstrap means of a measure, a case being its share of right seeds."""
    share = np.mean([cases_right(cell["measures"][name]) for cell in cells], axis=0)
    return bootstrap_means(share, seed=seed, groups=_groups(len(share), cells[0]["measures"][name]["together"]))


def _groups(n: int, together: int) -> list[int]:
    return (np.arange(n) // together).tolist()
