"""Draw the samples: `python -m experiments.world OUT emoji_pairs vqa_mini --seed 1`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.world.samples import DRAWN, write_sample

app = typer.Typer(add_completion=False)


@app.command()
def world(
    out: Annotated[Path, typer.Argument(help="Output folder; a sample that exists there is not overwritten.")] = Path(
        "data_samples"
    ),
    names: Annotated[list[str] | None, typer.Argument(help="Samples to draw; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed. The shipped samples have seed 0.")] = 0,
) -> None:
    """Draw samples of the emoji world into OUT: image-caption pairs and a small version of each benchmark."""
    names = names or list(DRAWN)
    if unknown := [name for name in names if name not in DRAWN]:
        raise typer.BadParameter(f"unknown sample '{unknown[0]}'; choose from {', '.join(DRAWN)}")
    if existing := [name for name in names if (out / name).exists()]:
        raise typer.BadParameter(f"{out / existing[0]} exists: remove it, or choose another folder")
    for name in names:
        typer.echo(write_sample(name, out / name, seed))


if __name__ == "__main__":
    app()
