"""Collect the commands of `vladva`; `vladva --help` lists them in this order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, cast

import typer

import vladva_kit as vk
from vladva_kit.cli import evaluate, images, likelihood, models, play, training
from vladva_kit.models.files import printable

app = typer.Typer(no_args_is_help=True)
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
    app.command(name)(cast(Callable, command))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vladva {vk.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """VladVA: turn a generative LVLM into an image-text embedding model that can still generate text."""


def main() -> None:
    """Run a command; print an error on one line, without a traceback unless `--debug` is among the arguments.

    Exits with status 2 for an error that the user can fix, with 1 for any other.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if len(arguments) < len(sys.argv[1:]):  # --debug may also follow the command
        app(arguments)
        return
    try:
        app(arguments)
    # BadInput, BadAdapter, UnknownModel; files; a missing extra; memory
    except (ValueError, OSError, ImportError, MemoryError) as error:
        typer.secho(printable(" ".join(str(error).split())) or "out of memory", fg="red", err=True)
        raise SystemExit(2) from None
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        typer.secho(f"{printable(message)}; add --debug to see the traceback", fg="red", err=True)
        raise SystemExit(1) from None
