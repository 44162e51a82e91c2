"""Runs experiments cell by cell; each cell is a file written whole, so that a killed run goes on from its last one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import vladva_kit as vk
from experiments.paper.plan import EXPERIMENTS, Cell, Experiment, Plan, experiment
from experiments.paper.runs import run_cell
from vladva_kit.analysis.prompt_study import study_emoji_prompts
from vladva_kit.evaluation.identity import versions
from vladva_kit.models.files import write_json
from vladva_kit.models.load import SHIPPED


def run_experiments(
    names: Sequence[str],
    plan: Plan,
    out: Path,
    command: str = "vladva ablate",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs what is not there yet of these experiments and writes OUT/results.json; returns what stands in it.

        run_experiments(["components", "rank"], Plan(steps=100), Path("runs/ablation"))

    names: of EXPERIMENTS, or "prompts". A cell's file is named by all that could change its figures: settings,
    weights and data; so other settings find nothing to go on from and leave the old cells alone. The results hold
    every experiment whose cells are all there. Raises ValueError for an unknown name before anything is run.
    """
    asked = [experiment(name, plan) for name in names if name != "prompts"]
    made_from = {model: _fingerprint(model) for model in ("emoji-llava", "emoji-clip")}
    wanted = list(dict.fromkeys(cell for one in asked for cell in one.cells()))
    for place, cell in enumerate(wanted, start=1):
        path = _path(out, cell, made_from)
        if path.is_file():
            say(f"{place}/{len(wanted)} {_title(cell)}: there already")
            continue
        say(f"{place}/{len(wanted)} {_title(cell)}")
        write_json(path, run_cell(cell), indent=None)
    prompts = out / f"prompts-{_digest([plan.prompt_pictures, made_from['emoji-llava']])}.json"
    if "prompts" in names and not prompts.is_file():
        say(f"fifty prompts, {plan.prompt_pictures} pictures")
        write_json(prompts, study_emoji_prompts(plan.prompt_pictures), indent=None)
    results = _collected(plan, out, made_from, command)
    results["prompts"] = json.loads(prompts.read_text()) if prompts.is_file() else None
    write_json(out / "results.json", results, indent=None)
    return results


def _collected(plan: Plan, out: Path, made_from: dict[str, str], command: str) -> dict[str, Any]:
    """All experiments of the plan whose cells are all there."""
    whole: list[Experiment] = []
    for name in EXPERIMENTS:
        one = experiment(name, plan)
        if all(_path(out, cell, made_from).is_file() for cell in one.cells()):
            whole.append(one)
    names = {cell: _path(out, cell, made_from).stem for one in whole for cell in one.cells()}
    return {
        "command": command,
        "plan": asdict(plan),
        "versions": versions(),
        "made_from": made_from,
        "experiments": {
            one.name: {
                "rows": [{"name": row.name, "cells": [names[cell] for cell in row.cells]} for row in one.rows],
                "compared": [list(pair) for pair in one.compared],
            }
            for one in whole
        },
        "cells": {name: json.loads(_path(out, cell, made_from).read_text()) for cell, name in names.items()},
    }


def _title(cell: Cell) -> str:
    """A cell in a line: what is not as it is without being said."""
    usual = asdict(Cell())
    said = [f"{key} {value}" for key, value in asdict(cell).items() if value != usual[key] and key != "model"]
    return ", ".join([cell.model, *said])


def _path(out: Path, cell: Cell, made_from: dict[str, str]) -> Path:
    seed = "frozen" if cell.seed is None else f"seed{cell.seed}"
    return out / "cells" / f"{cell.model}-{seed}-{_digest([asdict(cell), made_from[cell.model]])}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _fingerprint(model: str) -> str:
    """The weights and the samples' texts, as a digest."""
    samples = [vk.sample(name) for name in ("emoji_pairs", "winoground_mini", "sugarcrepe_mini")]
    texts = (path for folder in samples for path in folder.rglob("*.json*"))
    return _digest_of_files([SHIPPED / model / "model.safetensors", *sorted(texts)])


def _digest_of_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
