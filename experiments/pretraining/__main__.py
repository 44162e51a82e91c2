"""Train emoji-clip and emoji-llava: `python -m experiments.pretraining`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/pretrain"),
    stage: Annotated[str, typer.Option(help="read, clip, llava, or all (in this order).")] = "all",
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same weights on a CPU.")] = 0,
) -> None:
    """Train emoji-clip and emoji-llava into OUT, resuming from the state saved there. Takes two hours on two cores."""
    from experiments.pretraining.export import export
    from experiments.pretraining.train import STAGES, train_stage
    from experiments.pretraining.validate import validate_clip, validate_llava

    names = [one.name for one in STAGES]
    if stage not in (*names, "all"):
        raise typer.BadParameter(f"unknown stage '{stage}': use {', '.join(names)} or all")
    validators = {"read": partial(validate_llava, oracle=True), "clip": validate_clip, "llava": validate_llava}
    previous = None
    for one in STAGES:
        if stage in (one.name, "all"):
            train_stage(one, out, seed, validators[one.name], start_from=previous)
        previous = out / f"{one.name}.safetensors"
    for folder in export(out, out, seed):
        typer.echo(folder)


if __name__ == "__main__":
    typer.run(pretrain)
