"""Collect the commands of `vladva`; `vladva --help` lists them in this order."""

from __future__ import annotations

import typer

from vladva_kit.cli import evaluate, images, likelihood, models, play, training

app = typer.Typer(
    help="VladVA: turn a generative LVLM into an image-text embedding model that can still generate text.",
    no_args_is_help=True,
    add_completion=False,
)
for name, command in {
    "demo": training.demo,
    "play": play.play,
    "train": training.train,
    "mine": training.mine,
    "eval": evaluate.evaluate,
    "likelihood": likelihood.likelihood,
    "compare": evaluate.compare,
    "check": models.check,
    "memory": models.memory,
    "export": models.export,
    "embed": images.embed,
    "search": images.search,
    "index": images.index,
    "caption": images.caption,
}.items():
    app.command(name)(command)


def main() -> None:
    """Run a command; print an error that the user can fix on one line, without a traceback, and exit with status 2."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:  # BadInput, BadAdapter, UnknownModel; files; a missing extra
        typer.secho(" ".join(str(error).split()), fg="red", err=True)
        raise SystemExit(2) from None
