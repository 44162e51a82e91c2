"""Compare two models case by case: differences with paired intervals and McNemar's test, on the same data only.

Graded answers (VQA accuracy, CIDEr) are compared by their values, without McNemar's test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from vladva_kit.evaluation.bootstrap import bootstrap_means, interval_of, mcnemar
from vladva_kit.evaluation.cases import CaseScore
from vladva_kit.evaluation.results import FILES, read_per_case, read_results
from vladva_kit.evaluation.tables import terminal_table

MEAN = "mean of categories"
_NAME_ONE = "name one after a colon, as runs/demo:base"


@dataclass(frozen=True)
class ScoreDifference:
    """A score of two models in percent, and the second's gain in points; `category` "" is all cases."""

    benchmark: str
    score: str
    category: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    only_first: int | None  # cases that only the first gets right; None for a mean of categories and graded answers
    only_second: int | None
    p_value: float | None
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Two runs by their models' names, and the differences on the benchmarks that both have."""

    first: str
    second: str
    differences: tuple[ScoreDifference, ...]
    alone: tuple[str, ...]  # benchmarks that only one run has


@dataclass(frozen=True)
class _Run:
    """One model of a run, with the data fingerprint of each of its benchmarks."""

    folder: Path
    model: str
    models: tuple[str, ...]
    data: dict[str, str]

    def cases(self) -> dict[str, list[CaseScore]]:
        """Read its cases by benchmark."""
        old, path = self.folder / "margins.parquet", self.folder / FILES["per_case"]  # the name in older runs, and now
        return read_per_case(path if path.is_file() or not old.is_file() else old).get(self.model, {})


def compare(first: str | Path, second: str | Path, seed: int = 0) -> Comparison:
    """Compare two models case by case: `compare("runs/base", "runs/tuned").differences[0].low`.

    Each argument is a folder of `vladva eval --out` or `vladva demo`, or its results.json. If a run holds several
    models, name one after a colon, `compare("runs/demo:base", "runs/demo:fine-tuned")`; the default is the last, the
    subject of the run. Each score is compared over all cases, per category, and as the mean of its categories;
    intervals resample the cases of one image together. Raises ValueError if both are the same model of one run, were
    evaluated on different data, have no benchmark in common, or lack a file.
    """
    run, other = _run(first), _run(second)
    if (run.folder.resolve(), run.model) == (other.folder.resolve(), other.model):
        raise ValueError(f"{first} and {second} are one model of one run; it has {', '.join(run.models)}: {_NAME_ONE}")
    common = [name for name in run.data if name in other.data]
    if not common:
        names = (", ".join(one.data) or "none" for one in (run, other))
        raise ValueError("no benchmark in common: the first run has {}, the second {}".format(*names))
    for name in common:
        if not run.data[name] or run.data[name] != other.data[name]:
            prints = " and ".join(one.data[name][:12] or "none" for one in (run, other))
            raise ValueError(
                f"{name}: the two runs were evaluated on different data (fingerprints {prints}), so their scores are "
                "not comparable; evaluate both on the same cases"
            )
    cases, others = run.cases(), other.cases()
    differences: list[ScoreDifference] = []
    for name in common:
        differences += _differences(name, cases.get(name, []), others.get(name, []), seed)
    alone = tuple(sorted(set(run.data) ^ set(other.data)))
    models = (run.model, other.model) if run.model != other.model else (str(first), str(second))
    return Comparison(*models, tuple(differences), alone)


def _run(source: str | Path) -> _Run:
    path, model = str(source), ""
    if not Path(path).exists() and ":" in path:
        path, _, model = path.rpartition(":")
    folder, record = read_results(path)
    models = tuple(record["models"])
    if model and model not in models:
        raise ValueError(f"{path} holds no model {model!r}; it has {', '.join(models)}: {_NAME_ONE}")
    model = model or models[-1]
    data = {name: record["data"][name] for name in record["models"][model] if name in record["data"]}
    return _Run(folder, model, models, data)


def _differences(benchmark: str, first: list[CaseScore], second: list[CaseScore], seed: int) -> list[ScoreDifference]:
    of_first, of_second = ({case.key: case for case in cases} for cases in (first, second))
    if not of_first or of_first.keys() != of_second.keys():
        raise ValueError(f"{benchmark}: {FILES['per_case']} holds other cases in each run; evaluate both again")
    by_score: dict[str, list[CaseScore]] = {}
    for case in of_first.values():
        by_score.setdefault(case.score, []).append(case)
    differences = []
    for name, cases in by_score.items():
        values = np.array([[case.counts, of_second[case.key].counts] for case in cases])
        of_category: dict[str, list[int]] = {}
        for index, case in enumerate(cases):
            if case.category:
                of_category.setdefault(case.category, []).append(index)
        parts = {"": [list(range(len(cases)))]}  # what each difference averages
        if len(of_category) > 1:
            parts |= {MEAN: list(of_category.values())} | {one: [indices] for one, indices in of_category.items()}
        differences += [_difference((benchmark, name, one), cases, values, part, seed) for one, part in parts.items()]
    return differences


def _difference(
    names: tuple[str, str, str], cases: list[CaseScore], values: np.ndarray, parts: list[list[int]], seed: int
) -> ScoreDifference:
    """Compare the mean over parts, each a list of case indices; McNemar's test needs one part of ungraded cases."""
    change = values[:, 1] - values[:, 0]
    flat = [index for part in parts for index in part]
    images = [cases[index].image for index in flat]
    part_of = [number for number, part in enumerate(parts) for _ in part]
    low, high = interval_of(bootstrap_means(change[flat], seed, groups=images, parts=part_of))
    first, second = (100.0 * np.mean([values[part].mean(axis=0) for part in parts], axis=0)).tolist()
    difference = 100.0 * float(np.mean([change[part].mean() for part in parts]))
    test: tuple[int | None, int | None, float | None] = (None, None, None)
    if len(parts) == 1 and all(case.correct is not None for case in cases):
        counted = mcnemar(values[parts[0], 0], values[parts[0], 1])
        test = (counted.only_first, counted.only_second, counted.p_value)
    return ScoreDifference(*names, first, second, difference, low, high, *test, sum(map(len, parts)))


def difference_table(comparison: Comparison) -> Table:
    """Build the terminal table of differences: `rich.print(difference_table(compare("runs/base", "runs/tuned")))`."""
    caption = "percent right; difference in points [paired 95 % interval]; p: McNemar, exact; bold: clear"
    table = terminal_table((comparison.first, comparison.second, "difference", "p", "n"), caption)
    for one in comparison.differences:
        name = " ".join(filter(None, (one.benchmark, one.score, one.category)))
        p_value = "" if one.p_value is None else f"{one.p_value:.3f}" if one.p_value >= 0.001 else "<0.001"
        change = Text(f"{one.difference:+.1f} [{one.low:+.1f}, {one.high:+.1f}]", style="bold" if one.clear else "")
        table.add_row(Text(name), f"{one.first:.1f}", f"{one.second:.1f}", change, p_value, str(one.n))
    return table
