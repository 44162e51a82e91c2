"""The margin of each case, kept in a parquet: to analyse failures, and to compare two models case by case."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vladva_kit.files import write_whole


@dataclass(frozen=True)
class CaseMargin:
    """One case under one score; right where `margin` is above zero, and a tie where it is zero."""

    score: str  # "group", "R@1 text to image", …
    case: str  # the case's own key, the same for every model
    category: str  # the tag or category that failures are counted by
    image: str  # cases of one image are not independent
    caption: str
    other: str  # the caption, or the class, that it is told from
    margin: float
    correct: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.score, self.case


def write_margins(path: str | Path, benchmarks: dict[str, Any]) -> Path:
    """Write the cases of results as one parquet: `write_margins("runs/a/margins.parquet", {"winoground": result})`.

    Columns: benchmark and those of `CaseMargin`; `pandas.read_parquet(path)` opens it. The file is written whole or
    not at all. Returns the path.
    """
    import pyarrow
    import pyarrow.parquet

    rows = [(name, case) for name, result in benchmarks.items() for case in result.margins()]
    columns: dict[str, list[Any]] = {"benchmark": [name for name, _ in rows]}
    columns |= {field.name: [getattr(case, field.name) for _, case in rows] for field in fields(CaseMargin)}
    kinds = {"margin": pyarrow.float64(), "correct": pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), buffer)
    write_whole({Path(path): buffer.getvalue()})
    return Path(path)


def read_margins(path: str | Path) -> dict[str, list[CaseMargin]]:
    """The cases of a parquet by benchmark: `read_margins("runs/a/margins.parquet")["winoground"]`.

    Raises ValueError where the file is no such parquet.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet ({error}); write it again with vladva eval --out") from error
    names = [field.name for field in fields(CaseMargin)]
    missing = sorted({"benchmark", *names} - set(table.column_names))
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; give the margins.parquet of vladva eval --out")
    found: dict[str, list[CaseMargin]] = {}
    for row in table.to_pylist():
        found.setdefault(row["benchmark"], []).append(CaseMargin(**{name: row[name] for name in names}))
    return found


def count_wrong(cases: Iterable[CaseMargin]) -> dict[tuple[str, str], tuple[int, int]]:
    """How many cases of each (score, category) are wrong, of how many: `{("group", "Relation"): (12, 60)}`."""
    counted: dict[tuple[str, str], tuple[int, int]] = {}
    for case in cases:
        wrong, n = counted.get((case.score, case.category), (0, 0))
        counted[case.score, case.category] = (wrong + (not case.correct), n + 1)
    return counted
