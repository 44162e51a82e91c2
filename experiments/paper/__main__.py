"""Commands of the paper's study, `ablate`, `reproduction` and `prompts`: python -m experiments.paper ablate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from experiments.paper.plan import EXPERIMENTS, Plan
from vladva_kit.cli.options import BatchSize, Out, Split, Steps, resolve_data

NAMES = (*EXPERIMENTS, "blind", "context", "prompts")
app = typer.Typer(help="The paper's study in miniature.", no_args_is_help=True, add_completion=False)


@app.command()
def ablate(
    experiment: Annotated[str, typer.Option(help=f"{', '.join(NAMES)}, several with commas, or all.")] = "components",
    out: Out = Path("runs/ablation"),
    steps: Steps = Plan.steps,
    batch_size: BatchSize = Plan.batch_size,
    seeds: Annotated[int, typer.Option(help="Seeds per trained variant of components.")] = len(Plan.seeds),
    sweep_seeds: Annotated[int, typer.Option(help="Seeds per variant elsewhere.")] = len(Plan.sweep_seeds),
    generation_images: Annotated[
        int, typer.Option(help="Images per style for questions and captions.")
    ] = Plan.n_generation_images,
) -> None:
    """Run experiments on emoji-llava and write OUT/results.json. Resumes after the last run stored in OUT."""
    from experiments.paper.study import run_experiments
    from experiments.paper.tables import overview

    names = list(NAMES) if experiment == "all" else experiment.split(",")
    plan = Plan(
        steps=steps, batch_size=batch_size, seeds=tuple(range(seeds)), sweep_seeds=tuple(range(sweep_seeds)),
        n_generation_images=generation_images,
    )  # fmt: skip
    command = (
        f"python -m experiments.paper ablate --experiment {experiment} --steps {steps} --batch-size {batch_size} "
        f"--seeds {seeds} --sweep-seeds {sweep_seeds} --generation-images {generation_images}"
    )
    results = run_experiments(names, plan, out, command, typer.echo)
    for name in names:
        if name in results["experiments"]:
            typer.echo(f"\n{name}\n\n{overview(results, name)}")
    if "prompts" in names:
        typer.echo(f"prompts: {results['prompts']['correlations']}")
    path = out / "results.json"
    typer.echo(f"Results: {path}. Write the page with: python -m experiments.paper reproduction {path}")


@app.command()
def reproduction(
    results: Annotated[Path, typer.Argument(help="results.json of ablate.")] = Path("runs/ablation/results.json"),
    out: Out = Path("docs"),
) -> None:
    """Write reproduction.md with its tables, verdicts and figures, and a copy of the results, to OUT."""
    from experiments.paper.page import COMMAND, write_reproduction

    command = f"{COMMAND} reproduction {results.as_posix()}"
    typer.echo(write_reproduction(json.loads(results.read_text()), out, command))


@app.command()
def prompts(
    model: Annotated[str, typer.Argument(help="emoji-llava, a model folder or a Hub id.")] = "emoji-llava",
    data: Annotated[str, typer.Option(help="An imagefolder or a sample.")] = "emoji_pairs",
    split: Split = "test",
    n: Annotated[int, typer.Option(help="Number of images in the gallery.")] = 300,
    out: Out = Path("runs/prompts"),
) -> None:
    """Correlate next-token entropy with R@1 before training over fifty hand-written prompts."""
    import vladva_kit as vk
    from experiments.paper.figures import prompt_scatter
    from experiments.paper.prompts import EMOJI_PROMPTS, PLAIN_PROMPTS, PRETRAINED_PROMPTS, study_prompts
    from vladva_kit.models.files import write_json
    from vladva_kit.plots import save

    pairs = vk.load_pairs(resolve_data(data), split)[:n]
    prompt_lists = (EMOJI_PROMPTS, PRETRAINED_PROMPTS) if model == "emoji-llava" else (PLAIN_PROMPTS, ())
    study = study_prompts(vk.load_lvlm(model), pairs, *prompt_lists, typer.echo)
    path = write_json(out / "prompts.json", {"model": model, "data": data, **study})
    save(prompt_scatter(study), out / "prompts")
    typer.echo(f"{study['correlations']}; {path}")


if __name__ == "__main__":
    app()
