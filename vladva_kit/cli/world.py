"""Commands that make the emoji world: `world`, `pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import Out, Seed


def world(
    out: Out = Path("data_samples"),
    names: Annotated[list[str] | None, typer.Argument(help="Which samples; all that are drawn by default.")] = None,
    seed: Seed = 0,
) -> None:
    """Draws the emoji world's samples: pairs, and a miniature of each benchmark."""
    from vladva_kit.emoji_world.samples import DRAWN, write_sample

    unknown = sorted(set(names or ()) - set(DRAWN))
    if unknown:
        raise typer.BadParameter(f"no sample is called '{unknown[0]}': {', '.join(DRAWN)}")
    for name in names or DRAWN:
        typer.echo(write_sample(name, out / name, seed))
