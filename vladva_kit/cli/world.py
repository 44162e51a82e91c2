"""Command that draws the emoji world: `world`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import Out, Seed


def world(
    out: Out = Path("data_samples"),
    names: Annotated[list[str] | None, typer.Argument(help="Samples to draw; all by default.")] = None,
    seed: Seed = 0,
) -> None:
    """Draw the samples of the emoji world: image-caption pairs and a small version of each benchmark."""
    from vladva_kit.emoji_world.samples import DRAWN, write_sample

    unknown = sorted(set(names or ()) - set(DRAWN))
    if unknown:
        raise typer.BadParameter(f"unknown sample '{unknown[0]}'; choose from {', '.join(DRAWN)}")
    for name in names or DRAWN:
        typer.echo(write_sample(name, out / name, seed))
