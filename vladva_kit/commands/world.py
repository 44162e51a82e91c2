"""Commands that make the emoji world: `world`, `pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.commands.options import Out, Seed


def world(
    out: Out = Path("data_samples"),
    names: Annotated[list[str] | None, typer.Argument(help="Which samples; all that are drawn by default.")] = None,
    seed: Seed = 0,
) -> None:
    """Draws the emoji world's samples: pairs, and a miniature of each benchmark."""
    from vladva_kit.emoji_world.cases import DRAWN, write_sample

    unknown = sorted(set(names or ()) - set(DRAWN))
    if unknown:
        raise typer.BadParameter(f"no sample is called '{unknown[0]}': {', '.join(DRAWN)}")
    for name in names or DRAWN:
        typer.echo(write_sample(name, out / name, seed))


def pretrain(
    out: Out = Path("runs/pretrain"),
    stage: Annotated[str, typer.Option(help="read, clip, llava or all, in this order.")] = "all",
    seed: Seed = 0,
) -> None:
    """Trains emoji-clip and emoji-llava anew into OUT; goes on where it holds a state. Two hours on two cores."""
    from functools import partial

    from vladva_kit.emoji_world.exam import examine_clip, examine_llava
    from vladva_kit.emoji_world.export import export
    from vladva_kit.emoji_world.pretrain import STAGES, train_stage

    names = [one.name for one in STAGES]
    if stage not in (*names, "all"):
        raise typer.BadParameter(f"no stage is called '{stage}': {', '.join(names)} or all")
    checks = {"read": partial(examine_llava, told=True), "clip": examine_clip, "llava": examine_llava}
    before = None
    for one in STAGES:
        if stage in (one.name, "all"):
            train_stage(one, out, seed, checks[one.learns], start_from=before)
        before = out / f"{one.name}.safetensors"
    for folder in export(out, out, seed):
        typer.echo(folder)
