"""Commands for one model: `check` and `memory` before it is used, `export` after."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import Out, named_embedder


def check(
    model: Annotated[str, typer.Argument(help="emoji-llava, a folder or a hub id; of any family.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; chosen by the device.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …")] = None,
) -> None:
    """Holds a model to the eight checks that make a family trusted; exit status 1 where one fails."""
    import torch

    import vladva_kit as vk
    from vladva_kit.checks import run_checks
    from vladva_kit.models.device import place

    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"no dtype is called '{dtype}': float32, bfloat16 or float16")
    device_choice = place(device, dtype and getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is unverified")  # the first line says so
        lvlm = vk.load_lvlm(model, dtype=device_choice.dtype, device=device_choice.device)
    known = "" if lvlm.family.tested else f" ({lvlm.family.note})"
    typer.echo(f"{model}: family {lvlm.family.model_type}{known}; {device_choice.why}")
    checks = run_checks(lvlm)
    for one in checks:
        typer.secho(str(one), fg=None if one.passed else "red")
    if not all(one.passed for one in checks):
        raise typer.Exit(1)


def memory(
    models: Annotated[
        list[str] | None, typer.Argument(help="Folders or hub ids; the published ones by default.")
    ] = None,
) -> None:
    """What fits where: weights, and the largest batches for encoding and training on three sizes of card; estimated."""
    from vladva_kit.evaluation import markdown
    from vladva_kit.training.memory import memory_table

    heading, rows = memory_table(models)
    typer.echo(markdown.table(heading, rows, "l" + "r" * (len(heading) - 1)).removesuffix("\n"))


def export(
    model: Annotated[str, typer.Argument(help="An adapter's folder, or an LVLM with its hand-written prompts.")],
    out: Out = Path("runs/exported"),
) -> None:
    """Writes the towers as a folder that sentence-transformers loads; it embeds and does not talk."""
    from vladva_kit.embedder.export import export as export_towers

    embedder = named_embedder(model)
    if not hasattr(embedder, "lvlm"):
        raise typer.BadParameter(f"'{model}' is no LVLM: sentence-transformers loads a CLIP by its own name")
    typer.echo(export_towers(embedder, out))


def prompts(
    model: Annotated[str, typer.Argument(help="emoji-llava, a folder or a hub id.")] = "emoji-llava",
    data: Annotated[str, typer.Option(help="An imagefolder, or a sample.")] = "emoji_pairs",
    split: Annotated[str, typer.Option(help="Which part of the folder.")] = "test",
    n: Annotated[int, typer.Option(help="So many pictures are the gallery.")] = 300,
    out: Out = Path("runs/prompts"),
) -> None:
    """Fifty hand-written prompts: next-token entropy against zero-shot R@1; plain English for other models."""
    import vladva_kit as vk
    from vladva_kit.analysis.prompt_lists import EMOJI_PROMPTS, PLAIN_PROMPTS
    from vladva_kit.analysis.prompt_study import as_dict, study_prompts
    from vladva_kit.data.pairs import load_pairs
    from vladva_kit.data.samples import SAMPLES
    from vladva_kit.models.files import write_json
    from vladva_kit.plots.study import prompt_scatter
    from vladva_kit.plots.style import save

    pairs = load_pairs(vk.sample(data) if data in SAMPLES else data, split)[:n]
    words = EMOJI_PROMPTS if model == "emoji-llava" else PLAIN_PROMPTS
    study = as_dict(study_prompts(vk.load_lvlm(model), pairs, words, typer.echo), len(pairs))
    path = write_json(out / "prompts.json", {"model": model, "data": data, **study})
    save(prompt_scatter(study), out / "prompts")
    typer.echo(f"{study['correlations']}; {path}")
