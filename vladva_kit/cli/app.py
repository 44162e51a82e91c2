"""`vladva`: gathers the commands. `vladva --help` lists them in this order."""

from __future__ import annotations

import typer

from vladva_kit.cli import evaluate, images, models, training, world

app = typer.Typer(
    help="VladVA: turn a generative LVLM into an image-text embedding model that still talks.",
    no_args_is_help=True,
    add_completion=False,
)
for name, command in {
    "demo": training.demo,
    "train": training.train,
    "eval": evaluate.evaluate,
    "compare": evaluate.compare,
    "prompts": models.prompts,
    "check": models.check,
    "memory": models.memory,
    "export": models.export,
    "world": world.world,
    "embed": images.embed,
    "search": images.search,
    "index": images.index,
    "caption": images.caption,
}.items():
    app.command(name)(command)


def main() -> None:
    """Runs a command; what the user can mend is said in one line, without a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:  # BadInput, BadAdapter, UnknownModel; files; a missing extra
        typer.secho(str(error), fg="red", err=True)
        raise SystemExit(2) from None
