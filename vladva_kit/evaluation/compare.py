"""Two models on the same cases: differences with paired intervals and McNemar's test; other data is refused.

Answers that are neither right nor wrong (VQA accuracy, CIDEr) are compared by what they count for, without the test.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.evaluation.bootstrap import bootstrap_means, interval_of, paired
from vladva_kit.evaluation.per_case import CaseScore, read_per_case
from vladva_kit.evaluation.results import FILES, read_results

if TYPE_CHECKING:
    import rich.table

MEAN = "mean of categories"


@dataclass(frozen=True)
class Difference:
    """One score of two models in percent, and by how many points the second has more; `category` "" is all cases."""

    benchmark: str
    score: str
    category: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    only_first: int | None  # cases that only the first has right; None for a mean of categories, and graded answers
    only_second: int | None
    p_value: float | None
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Two runs, by their models' names, and all differences that their benchmarks in common have."""

    first: str
    second: str
    differences: tuple[Difference, ...]
    alone: tuple[str, ...]  # benchmarks that only one run has

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts for JSON."""
        return asdict(self)


def compare(first: str | Path, second: str | Path, seed: int = 0) -> Comparison:
    """Two models case by case: `compare("runs/base", "runs/tuned").differences[0].low`.

    Each is a folder of `vladva eval --out` or `vladva demo`, or its results.json; where it holds several models, one is
    named behind a colon, `compare("runs/demo:base", "runs/demo:fine-tuned")`, else the last is taken, which the run is
    about. Each score over all cases, over each category, and as the mean of its categories; intervals draw the cases
    of one image together. Raises ValueError where the two are one, were scored on different data, have no benchmark in
    common, or lack a file.
    """
    one, other = _run(first), _run(second)
    if (one.folder.resolve(), one.model) == (other.folder.resolve(), other.model):
        raise ValueError(f"{first} and {second} are one model of one run; it has {', '.join(one.models)}: {_NAMED}")
    common = [name for name in one.data if name in other.data]
    if not common:
        have = (", ".join(run.data) or "none" for run in (one, other))
        raise ValueError("no benchmark in common: the first run has {}, the second {}".format(*have))
    for name in common:
        _check_same_data(name, one.data[name], other.data[name])
    cases, others = one.cases(), other.cases()
    differences: list[Difference] = []
    for name in common:
        differences += _differences(name, cases.get(name, []), others.get(name, []), seed)
    alone = tuple(sorted(set(one.data) ^ set(other.data)))
    names = (one.model, other.model) if one.model != other.model else (str(first), str(second))
    return Comparison(*names, tuple(differences), alone)


@dataclass(frozen=True)
class _Run:
    """One model of a run, and the fingerprints of what it was judged on, by benchmark."""

    folder: Path
    model: str
    models: tuple[str, ...]
    data: dict[str, str]

    def cases(self) -> dict[str, list[CaseScore]]:
        """Its cases by benchmark."""
        return read_per_case(self.folder / FILES["margins"]).get(self.model, {})


_NAMED = "name one behind a colon, as runs/demo:base"


def _run(place: str | Path) -> _Run:
    path, model = str(place), ""
    if not Path(path).exists() and ":" in path:
        path, _, model = path.rpartition(":")
    folder, record = read_results(path)
    models = tuple(record["models"])
    if model and model not in models:
        raise ValueError(f"{path} holds no model {model!r}; it has {', '.join(models)}: {_NAMED}")
    model = model or models[-1]
    data = {name: record["data"][name] for name in record["models"][model] if name in record["data"]}
    return _Run(folder, model, models, data)


def _check_same_data(name: str, first: str, second: str) -> None:
    if not first or first != second:
        raise ValueError(
            f"{name}: the two runs were scored on different data (fingerprints {first[:12] or 'none'} and "
            f"{second[:12] or 'none'}), so their figures say nothing about each other; evaluate both on the same cases"
        )


def _differences(
    benchmark: str, first: Iterable[CaseScore], second: Iterable[CaseScore], seed: int
) -> list[Difference]:
    of_first, of_second = ({case.key: case for case in cases} for cases in (first, second))
    if not of_first or of_first.keys() != of_second.keys():
        raise ValueError(f"{benchmark}: margins.parquet does not hold the same cases in both runs; evaluate both again")
    by_score: dict[str, list[CaseScore]] = {}
    for case in of_first.values():
        by_score.setdefault(case.score, []).append(case)
    found: list[Difference] = []
    for score, cases in by_score.items():
        groups = [case.image for case in cases]
        counts = np.array([[case.counts, of_second[case.key].counts] for case in cases])
        graded = any(case.correct is None for case in cases)
        found.append(_difference(benchmark, score, "", counts, groups, seed, graded))
        categories = list(dict.fromkeys(case.category for case in cases if case.category))
        if len(categories) > 1:
            parts = {name: [at for at, case in enumerate(cases) if case.category == name] for name in categories}
            found.append(_mean_difference(benchmark, score, counts, groups, parts, seed))
            found += [
                _difference(benchmark, score, name, counts[places], [groups[at] for at in places], seed, graded)
                for name, places in parts.items()
            ]
    return found


def _difference(
    benchmark: str, score: str, category: str, counts: np.ndarray, groups: list[str], seed: int, graded: bool
) -> Difference:
    change = paired(counts[:, 0], counts[:, 1], groups, seed)
    first, second = (100.0 * counts.mean(axis=0)).tolist()
    test = None if graded else change.mcnemar  # it counts right and wrong, and nothing between
    counted = (test.only_first, test.only_second, test.p_value) if test else (None, None, None)
    return Difference(
        benchmark, score, category, first, second, change.difference, change.low, change.high, *counted, len(counts)
    )


def _mean_difference(
    benchmark: str, score: str, counts: np.ndarray, groups: list[str], parts: dict[str, list[int]], seed: int
) -> Difference:
    """The difference of the macro averages; category by category, each with a stream of its own."""
    change = counts[:, 1] - counts[:, 0]
    means = [
        bootstrap_means(change[places], seed=seed + number, groups=[groups[at] for at in places])
        for number, places in enumerate(parts.values())
    ]
    low, high = interval_of(np.mean(means, axis=0))
    first, second = (100.0 * np.mean([counts[places].mean(axis=0) for places in parts.values()], axis=0)).tolist()
    return Difference(benchmark, score, MEAN, first, second, second - first, low, high, None, None, None, len(counts))


def difference_table(found: Comparison) -> rich.table.Table:
    """The differences for the terminal: `rich.print(difference_table(compare("runs/base", "runs/tuned")))`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=Text("percent right; difference in points [paired 95 % interval]; p: McNemar, exact; bold: clear"),
    )
    table.add_column("")
    for heading in (found.first, found.second, "difference", "p", "n"):
        table.add_column(Text(heading), justify="right")
    for one in found.differences:
        name = " ".join(filter(None, (one.benchmark, one.score, one.category)))
        p_value = "" if one.p_value is None else f"{one.p_value:.3f}" if one.p_value >= 0.001 else "<0.001"
        change = Text(f"{one.difference:+.1f} [{one.low:+.1f}, {one.high:+.1f}]", style="bold" if one.clear else "")
        table.add_row(Text(name), f"{one.first:.1f}", f"{one.second:.1f}", change, p_value, str(one.n))
    return table
