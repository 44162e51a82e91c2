"""`vladva`: gathers the commands. `vladva --help` lists them in this order."""

from __future__ import annotations

import typer

from vladva_kit.commands import judging, models, pictures, studies, training, world

app = typer.Typer(
    help="VladVA: turn a generative LVLM into an image-text embedding model that still talks.",
    no_args_is_help=True,
    add_completion=False,
)
for name, command in {
    "demo": training.demo,
    "train": training.train,
    "eval": judging.evaluate,
    "compare": judging.compare,
    "ablate": studies.ablate,
    "reproduction": studies.reproduction,
    "prompts": studies.prompts,
    "check": models.check,
    "memory": models.memory,
    "export": models.export,
    "world": world.world,
    "pretrain": world.pretrain,
    "embed": pictures.embed,
    "search": pictures.search,
    "index": pictures.index,
    "caption": pictures.caption,
}.items():
    app.command(name)(command)


def main() -> None:
    """Runs a command; what the user can mend is said in one line, without a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:  # BadInput, BadAdapter, UnknownModel; files; a missing extra
        typer.secho(str(error), fg="red", err=True)
        raise SystemExit(2) from None
