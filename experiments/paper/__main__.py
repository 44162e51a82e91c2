"""Commands for the paper's study: `ablate`, `reproduction`, `prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import BatchSize, Out, Steps


def ablate(
    experiment: Annotated[
        str, typer.Option(help="components, generation, prompts, batch-size, data-size, rank, temperature, "
        "next-token-weight, negatives, soft-prompt-rate, collapse, or all.")
    ] = "components",
    out: Out = Path("runs/ablation"),
    steps: Steps = 80,
    batch_size: BatchSize = 64,
    seeds: Annotated[int, typer.Option(help="Seeds of each trained row of the components.")] = 3,
    line_seeds: Annotated[int, typer.Option(help="Seeds of each trained row of the other experiments.")] = 1,
    talks_about: Annotated[int, typer.Option(help="Pictures a style that the model is asked about.")] = 100,
) -> None:  # fmt: skip
    """The paper's component table and its other experiments on emoji-llava; goes on from the last cell in OUT."""
    from experiments.paper import EXPERIMENTS, Plan, markdown_table, run_experiments

    names = [*EXPERIMENTS, "prompts"] if experiment == "all" else [experiment]
    plan = Plan(
        steps=steps, batch_size=batch_size, seeds=tuple(range(seeds)), line_seeds=tuple(range(line_seeds)),
        talks_about=talks_about,
    )  # fmt: skip
    command = (
        f"vladva ablate --experiment {experiment} --steps {steps} --batch-size {batch_size} --seeds {seeds} "
        f"--line-seeds {line_seeds} --talks-about {talks_about}"
    )
    results = run_experiments(names, plan, out, command, typer.echo)
    for name in names:
        if name in results["experiments"]:
            typer.echo(f"\n{name}\n\n{markdown_table(results, name)}")
    if "prompts" in names:
        typer.echo(f"prompts: {results['prompts']['correlations']}")
    typer.echo(f"The results: {out / 'results.json'}; the page of them: vladva reproduction {out / 'results.json'}")


def reproduction(
    results: Annotated[Path, typer.Argument(help="results.json, as vladva ablate wrote it.")] = Path(
        "runs/ablation/results.json"
    ),
    out: Out = Path("docs"),
) -> None:
    """Writes reproduction.md with its figures and verdicts from the results of an ablation."""
    import json

    from experiments.paper.page import write_reproduction

    typer.echo(write_reproduction(json.loads(results.read_text()), out, f"vladva reproduction {results.as_posix()}"))


app = typer.Typer(help="The paper's study in miniature.", no_args_is_help=True, add_completion=False)
app.command("ablate")(ablate)
app.command("reproduction")(reproduction)

if __name__ == "__main__":
    app()
