"""Save results: results.json with everything needed to reproduce them, tables, and the score of every case."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from vladva_kit.embedder.identity import versions
from vladva_kit.evaluation.cases import CaseScore
from vladva_kit.evaluation.tables import latex_table, markdown_table
from vladva_kit.models.files import atomic_write, json_bytes

FILES = {"results": "results.json", "markdown": "table.md", "latex": "table.tex", "per_case": "per_case.parquet"}


def save_results(
    folder: str | Path,
    results: Mapping[str, Mapping[str, Any]],
    identity: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """Save results by model and benchmark, and return what results.json holds.

        save_results("runs/a", {"base": {"winoground": result}}, {"base": describe(embedder)}, {"seed": 0})

    Writes results.json, table.md, table.tex and per_case.parquet. results.json holds `metadata` (command, seed,
    settings, …), versions, `identity` (each model's `identity.describe`), `data` (the fingerprint of each benchmark)
    and `models`, from which tables are made. Raises ValueError if two models were evaluated on different data.
    """
    folder, record = Path(folder), results_record(results, identity, metadata)
    contents = {
        "per_case": _per_case_bytes(results),
        "markdown": markdown_table(record).encode(),
        "latex": latex_table(record).encode(),
        "results": json_bytes(record),  # last: if it exists, the other files are complete
    }
    atomic_write({folder / FILES[name]: content for name, content in contents.items()})
    return record


def results_record(
    results: Mapping[str, Mapping[str, Any]],
    identity: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what `save_results` writes to results.json, without writing it.

        results_record({"base": {"winoground": result}}, {"base": describe(embedder)}, {"seed": 0})["models"]

    Raises ValueError if two models were evaluated on different data.
    """
    data: dict[str, Any] = {}
    for model, by_benchmark in results.items():
        for name, result in by_benchmark.items():
            if data.setdefault(name, result.data) != result.data:
                raise ValueError(f"{name}: {model} was evaluated on other data than the models before it")
    return {
        **metadata,
        "versions": versions(),
        "identity": {model: dict(one) for model, one in identity.items()},
        "data": data,
        "models": {model: {name: one.as_dict() for name, one in each.items()} for model, each in results.items()},
    }


def read_results(source: str | Path) -> tuple[Path, dict[str, Any]]:
    """Read a results.json or the one in a folder; return the folder and the content: `read_results("runs/a")`.

    Raises ValueError if it is missing or was not written by `save_results`.
    """
    path = Path(source)
    path = path / FILES["results"] if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist; write it with vladva eval MODEL --benchmark NAME --out FOLDER")
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); the file may be truncated: evaluate again") from error
    if not isinstance(record, dict) or not record.get("models") or not isinstance(record.get("data"), dict):
        raise ValueError(f"{path} holds no models with data fingerprints; write it with vladva eval --out, or demo")
    return path.parent, record


def write_per_case(path: str | Path, results: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the cases of results to one parquet file, atomically, and return its path.

        write_per_case("per_case.parquet", {"base": {"winoground": result}})

    Columns: model, benchmark and the fields of `CaseScore`; `pandas.read_parquet(path)` opens it too.
    """
    atomic_write({Path(path): _per_case_bytes(results)})
    return Path(path)


def _per_case_bytes(results: Mapping[str, Mapping[str, Any]]) -> bytes:
    text, number = pyarrow.string(), pyarrow.float64()
    types = {"margin": number, "correct": pyarrow.bool_(), "value": number, "tags": pyarrow.list_(text)}
    rows = [
        {"model": model, "benchmark": benchmark} | {name: _utf8(value) for name, value in vars(case).items()}
        for model, by_benchmark in results.items()
        for benchmark, result in by_benchmark.items()
        for case in result.per_case()
    ]
    names = ("model", "benchmark", *(field.name for field in fields(CaseScore)))
    schema = pyarrow.schema([(name, types.get(name, text)) for name in names])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


def _utf8(value: Any) -> Any:
    """Escape half characters, as of a file name that is not UTF-8, which Parquet cannot hold."""
    if isinstance(value, tuple):
        return tuple(map(_utf8, value))
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def read_per_case(path: str | Path) -> dict[str, dict[str, list[CaseScore]]]:
    """Read the cases by model and benchmark: `read_per_case("runs/demo/per_case.parquet")["base"]["winoground"]`.

    Raises ValueError if the file is missing or was not written by `write_per_case`.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; write it with vladva eval --out, or demo")
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file ({error}); write it again with vladva eval --out") from error
    names = [field.name for field in fields(CaseScore)]
    missing = sorted({"model", "benchmark", *names} - set(table.column_names))
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; give the per_case.parquet of vladva eval --out")
    cases: dict[str, dict[str, list[CaseScore]]] = {}
    for row in table.to_pylist():
        case = CaseScore(**{name: row[name] for name in names} | {"tags": tuple(row["tags"])})
        cases.setdefault(row["model"], {}).setdefault(row["benchmark"], []).append(case)
    return cases
