"""Commands for the paper's study: `ablate`, `reproduction`, `prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.commands.options import BatchSize, Out, Steps


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
    from vladva_kit.ablation import EXPERIMENTS, Plan, markdown_table, run_experiments

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

    from vladva_kit.reproduction import write_reproduction

    typer.echo(write_reproduction(json.loads(results.read_text()), out, f"vladva reproduction {results.as_posix()}"))


def prompts(
    model: Annotated[str, typer.Argument(help="emoji-llava, a folder or a hub id.")] = "emoji-llava",
    data: Annotated[str, typer.Option(help="An imagefolder, or a sample.")] = "emoji_pairs",
    split: Annotated[str, typer.Option(help="Which part of the folder.")] = "test",
    n: Annotated[int, typer.Option(help="So many pictures are the gallery.")] = 300,
    out: Out = Path("runs/prompts"),
) -> None:
    """Fifty hand-written prompts: next-token entropy against zero-shot R@1; plain English for other models."""
    import vladva_kit as vk
    from vladva_kit.data import SAMPLES, load_pairs
    from vladva_kit.files import write_json
    from vladva_kit.plot_parts import save
    from vladva_kit.prompt_lists import EMOJI_PROMPTS, PLAIN_PROMPTS
    from vladva_kit.prompt_study import as_dict, study_prompts
    from vladva_kit.reproduction.figures import prompt_scatter

    pairs = load_pairs(vk.sample(data) if data in SAMPLES else data, split)[:n]
    words = EMOJI_PROMPTS if model == "emoji-llava" else PLAIN_PROMPTS
    study = as_dict(study_prompts(vk.load_lvlm(model), pairs, words, typer.echo), len(pairs))
    path = write_json(out / "prompts.json", {"model": model, "data": data, **study})
    save(prompt_scatter(study), out / "prompts")
    typer.echo(f"{study['correlations']}; {path}")
