"""Train emoji-clip and emoji-llava: `python -m experiments.pretraining`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import Out, Seed


def pretrain(
    out: Out = Path("runs/pretrain"),
    stage: Annotated[str, typer.Option(help="read, clip, llava or all, in this order.")] = "all",
    seed: Seed = 0,
) -> None:
    """Trains emoji-clip and emoji-llava anew into OUT; goes on where it holds a state. Two hours on two cores."""
    from functools import partial

    from experiments.pretraining.export import export
    from experiments.pretraining.train import STAGES, train_stage
    from experiments.pretraining.validate import validate_clip, validate_llava

    names = [one.name for one in STAGES]
    if stage not in (*names, "all"):
        raise typer.BadParameter(f"no stage is called '{stage}': {', '.join(names)} or all")
    checks = {"read": partial(validate_llava, told=True), "clip": validate_clip, "llava": validate_llava}
    before = None
    for one in STAGES:
        if stage in (one.name, "all"):
            train_stage(one, out, seed, checks[one.learns], start_from=before)
        before = out / f"{one.name}.safetensors"
    for folder in export(out, out, seed):
        typer.echo(folder)


if __name__ == "__main__":
    typer.run(pretrain)
