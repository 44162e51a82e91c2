"""Train the shipped adapter, evaluate it and write its card: `python -m experiments.adapter`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from experiments.adapter.train import STEPS

app = typer.Typer(add_completion=False)


@app.command()
def adapter(
    out: Annotated[Path, typer.Option(help="Folder for pairs, checkpoints, adapter, results and card.")] = Path(
        "runs/adapter"
    ),
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = STEPS,
    machine: Annotated[str, typer.Option(help="What the card says the training ran on.")] = "2 CPU cores",
) -> None:
    """Draw pairs, fine-tune emoji-llava, interpolate, evaluate, write the card. Resumes an interrupted training."""
    from experiments.adapter.card import model_card
    from experiments.adapter.train import evaluate, train
    from vladva_kit.models.files import atomic_write

    embedder, training = train(out, steps, machine, typer.echo)
    folder = embedder.save_pretrained(out / "adapter")
    results = evaluate(embedder, training, out)
    atomic_write({folder / "README.md": model_card(results).encode()})
    typer.echo(json.dumps(results["effect"], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    app()
