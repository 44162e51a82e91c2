"""The margin of each case, kept in a parquet: to analyze failures, and to compare two models case by case."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vladva_kit.models.files import atomic_write


@dataclass(frozen=True)
class CaseScore:
    """One case under one score; right where `margin` is above zero, and a tie where it is zero.

    An answer has no rival: its margin is what it counts for, as `value` has it, or 1 and 0.
    """

    score: str  # "group", "R@1 text to image", …
    case: str  # the case's own key, the same for every model
    category: str  # the tag or category that failures are counted by
    image: str  # cases of one image are not independent
    caption: str
    other: str  # the caption, or the class, that it is told from
    margin: float
    correct: bool | None  # None where an answer is neither right nor wrong, but of some value
    value: float | None = None  # what it counts for then: VQA's 0–1, a caption's CIDEr
    tags: tuple[str, ...] = ()  # all that the benchmark says of the case: "Relation", "Symbolic", "same words", …

    @property
    def key(self) -> tuple[str, str]:
        return self.score, self.case

    @property
    def counts(self) -> float:
        """What the case adds to its score before the mean: 1 or 0, or its value."""
        return float(bool(self.correct)) if self.value is None else self.value


def write_per_case(path: str | Path, judged: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the cases of results as one parquet: `write_per_case("margins.parquet", {"base": {"winoground": result}})`.

    `judged` has each model's results by benchmark. Columns: model, benchmark and those of `CaseScore`;
    `pandas.read_parquet(path)` opens it. The file is written whole or not at all. Returns the path.
    """
    import pyarrow
    import pyarrow.parquet

    rows = [
        (model, name, case)
        for model, results in judged.items()
        for name, result in results.items()
        for case in result.margins()
    ]
    columns: dict[str, list[Any]] = {"model": [row[0] for row in rows], "benchmark": [row[1] for row in rows]}
    columns |= {field.name: [getattr(row[2], field.name) for row in rows] for field in fields(CaseScore)}
    number = pyarrow.float64()
    kinds = {"margin": number, "correct": pyarrow.bool_(), "value": number, "tags": pyarrow.list_(pyarrow.string())}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), buffer)
    atomic_write({Path(path): buffer.getvalue()})
    return Path(path)


def read_per_case(path: str | Path) -> dict[str, dict[str, list[CaseScore]]]:
    """The cases of a parquet by model and benchmark: `read_per_case("runs/demo/margins.parquet")["base"]["winoground"]`.

    Raises ValueError where there is none, or it is no such parquet.
    """
    import pyarrow
    import pyarrow.parquet

    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; write it with vladva eval --out, or demo")
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet ({error}); write it again with vladva eval --out") from error
    names = [field.name for field in fields(CaseScore)]
    missing = sorted({"model", "benchmark", *names} - set(table.column_names))
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; give the margins.parquet of vladva eval --out")
    found: dict[str, dict[str, list[CaseScore]]] = {}
    for row in table.to_pylist():
        case = CaseScore(**{name: row[name] for name in names} | {"tags": tuple(row["tags"])})
        found.setdefault(row["model"], {}).setdefault(row["benchmark"], []).append(case)
    return found


def count_wrong(cases: Iterable[CaseScore]) -> dict[tuple[str, str], tuple[int, int]]:
    """How many cases of each (score, category) are wrong, of how many: `{("group", "Relation"): (12, 60)}`.

    Cases that are neither right nor wrong are passed over.
    """
    counted: dict[tuple[str, str], tuple[int, int]] = {}
    for case in cases:
        if case.correct is None:
            continue
        wrong, n = counted.get((case.score, case.category), (0, 0))
        counted[case.score, case.category] = (wrong + (not case.correct), n + 1)
    return counted
