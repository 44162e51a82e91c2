"""Run the soak test, or one of its parts: `python -m experiments.soak kills --minutes 5`."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub's client is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # runs are forked

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments.benchmarks.measure import describe_machine, machine_load
from experiments.soak.fuzz import fuzz_inputs
from experiments.soak.kills import kill_runs
from experiments.soak.load import embed_many
from experiments.soak.page import RESULTS, failures_of, write_reliability
from vladva_kit.models.files import write_json

PARTS = {"kills": 0.5, "fuzz": 0.2, "load": 0.3}  # shares of the time
app = typer.Typer(add_completion=False)


@app.command()
def soak(
    parts: Annotated[list[str] | None, typer.Argument(help="kills, fuzz, load; all by default.")] = None,
    minutes: Annotated[float, typer.Option(help="At most this long; a part ends earlier when it is complete.")] = 55,
    kills: Annotated[int, typer.Option(help="Kills of runs.")] = 50,
    inputs: Annotated[int, typer.Option(help="Fuzzed inputs.")] = 10_000,
    items: Annotated[int, typer.Option(help="Images with captions to embed, 1 % of them broken.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Random seed of moments and inputs.")] = 0,
    out: Annotated[Path, typer.Option(help="Where reliability.md is written.")] = Path("docs"),
    results: Annotated[Path, typer.Option(help="Where the counts are written as JSON.")] = RESULTS,
) -> None:
    """Kill, fuzz and load the kit; write the counts to RESULTS and OUT/reliability.md. Exits with 1 after a failure."""
    chosen = parts or list(PARTS)
    if unknown := sorted(set(chosen) - set(PARTS)):
        raise typer.BadParameter(f"unknown part '{unknown[0]}'; choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)  # runs are forked: threads would not survive
    record: dict[str, Any] = {"command": " ".join(["python -m experiments.soak", *sys.argv[1:]])}
    record |= {"machine": describe_machine(), "seed": seed}
    share = sum(PARTS[name] for name in chosen)
    with tempfile.TemporaryDirectory() as scratch:
        for name in (name for name in PARTS if name in chosen):
            start, seconds = time.perf_counter(), 60 * minutes * PARTS[name] / share
            run, count = {"kills": (kill_runs, kills), "fuzz": (fuzz_inputs, inputs), "load": (embed_many, items)}[name]
            record[name] = run(Path(scratch) / name, count, seconds, seed, typer.echo)
            record[name]["seconds"] = round(time.perf_counter() - start)
    record["load average"] = str(machine_load())
    write_json(results, record)
    typer.echo(write_reliability(record, out))
    if failed := failures_of(record):
        typer.echo("\n".join(["failed:", *failed]))
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
