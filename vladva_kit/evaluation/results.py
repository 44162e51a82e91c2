"""What an evaluation leaves behind: results.json with all that repeats it, tables, and the margin of every case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vladva_kit.evaluation.identity import describe, versions
from vladva_kit.evaluation.latex import latex_table
from vladva_kit.evaluation.per_case import write_per_case
from vladva_kit.evaluation.tables import markdown_table
from vladva_kit.models.files import atomic_write, write_json

FILES = {"results": "results.json", "markdown": "table.md", "latex": "table.tex", "margins": "margins.parquet"}


def save_results(
    folder: str | Path,
    embedder: Any,
    results: Mapping[str, Any],
    model: str,
    seed: int = 0,
    command: str = "",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write one model's results: `save_results("runs/a", embedder, {"winoground": result}, "base")`.

    Into `folder` go the files of `save_all_results`. Returns what results.json holds. Raises TypeError where the embedder's
    weights cannot be told from others, see `identity.describe`.
    """
    told = {"command": command, "seed": seed, "settings": dict(settings or {})}
    return save_all_results(folder, {model: results}, {model: describe(embedder)}, told)


def save_all_results(
    folder: str | Path,
    judged: Mapping[str, Mapping[str, Any]],
    identity: Mapping[str, Mapping[str, Any]],
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """Write several models' results: `save_all_results("runs/a", {"base": {"winoground": result}}, identity, {"seed": 0})`.

    Into `folder` go results.json, table.md, table.tex and margins.parquet. results.json holds what is `told` (the
    command, the seed, settings, …), versions, `identity` (each model's, as `identity.describe` gives it: name,
    revision, dtype, prompts, SHA-256 of weights and of the adapter), `data` (a fingerprint for each benchmark), and
    under `models` what the tables are made of. Returns that dict. Raises ValueError where two models were not judged on
    the same data.
    """
    folder, data = Path(folder), {}
    for model, results in judged.items():
        for name, result in results.items():
            if data.setdefault(name, result.data) != result.data:
                raise ValueError(f"{name}: {model} was judged on other data than the models before it")
    record = {
        **told,
        "versions": versions(),
        "identity": {model: dict(one) for model, one in identity.items()},
        "data": data,
        "models": {model: {name: one.as_dict() for name, one in results.items()} for model, results in judged.items()},
    }
    write_per_case(folder / FILES["margins"], judged)
    tables = {FILES["markdown"]: markdown_table(record), FILES["latex"]: latex_table(record)}
    atomic_write({folder / name: text.encode() for name, text in tables.items()})
    write_json(folder / FILES["results"], record)  # last: where it lies, the others are whole
    return record


def read_results(place: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder and the content of a results.json: `read_results("runs/a")`.

    Raises ValueError where there is none, or it is not one that `save_all_results` wrote.
    """
    path = Path(place)
    path = path / FILES["results"] if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist; write it with vladva eval MODEL --benchmark NAME --out FOLDER")
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); the file may be cut short: evaluate again") from error
    if not isinstance(record, dict) or not record.get("models") or not isinstance(record.get("data"), dict):
        raise ValueError(f"{path} holds no models with data fingerprints; write it with vladva eval --out, or demo")
    return path.parent, record
