"""Commands for one model: `check`, `memory`, `prompts`, `export`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import Out, Split, load_embedder, resolve_data


def check(
    model: Annotated[str, typer.Argument(help="emoji-llava, a model folder or a Hub id, of any family.")],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. By default the device decides.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")] = None,
) -> None:
    """Run the eight checks of an LVLM and print one line for each. Exit with status 1 if a check fails."""
    import torch

    import vladva_kit as vk
    from vladva_kit.models.device import choose_device

    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"unknown dtype '{dtype}'; choose from float32, bfloat16, float16")
    choice = choose_device(device, dtype and getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is unverified")  # the first line says so
        lvlm = vk.load_lvlm(model, dtype=choice.dtype, device=choice.device)
    note = "" if lvlm.family.verified else " (unverified)"
    typer.echo(f"{model}: family {lvlm.family.model_type}{note}; {choice.reason}")
    results = vk.check(lvlm)
    for result in results:
        typer.secho(str(result), fg=None if result.passed else "red")
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def memory(
    models: Annotated[
        list[str] | None, typer.Argument(help="Model folders or Hub ids; the published models by default.")
    ] = None,
) -> None:
    """Estimate the memory of the weights and the largest batches for encoding and training, for three GPU sizes."""
    from vladva_kit.evaluation.tables import markdown_rows
    from vladva_kit.training.memory import memory_table

    heading, rows = memory_table(models)
    typer.echo(markdown_rows(heading, rows, "l" + "r" * (len(heading) - 1)).removesuffix("\n"))


def export(
    model: Annotated[str, typer.Argument(help="An adapter folder, or an LVLM, which then uses hand-written prompts.")],
    out: Out = Path("runs/exported"),
) -> None:
    """Merge the adapter into the model and write a folder for sentence-transformers. It embeds but cannot generate."""
    from vladva_kit.embedder.export import export as export_embedder

    embedder = load_embedder(model)
    if not hasattr(embedder, "lvlm"):
        raise typer.BadParameter(f"'{model}' is not an LVLM; sentence-transformers loads a CLIP model directly")
    typer.echo(export_embedder(embedder, out))


def prompts(
    model: Annotated[str, typer.Argument(help="emoji-llava, a model folder or a Hub id.")] = "emoji-llava",
    data: Annotated[str, typer.Option(help="An imagefolder or a sample.")] = "emoji_pairs",
    split: Split = "test",
    n: Annotated[int, typer.Option(help="Number of images in the gallery.")] = 300,
    out: Out = Path("runs/prompts"),
) -> None:
    """Correlate next-token entropy with zero-shot R@1 over fifty hand-written prompts."""
    import vladva_kit as vk
    from vladva_kit.analysis.prompt_lists import EMOJI_PROMPTS, PLAIN_PROMPTS
    from vladva_kit.analysis.prompt_study import study_prompts
    from vladva_kit.data.pairs import load_pairs
    from vladva_kit.models.files import write_json
    from vladva_kit.plots import prompt_scatter, save

    pairs = load_pairs(resolve_data(data), split)[:n]
    prompt_list = EMOJI_PROMPTS if model == "emoji-llava" else PLAIN_PROMPTS
    study = study_prompts(vk.load_lvlm(model), pairs, prompt_list, typer.echo)
    path = write_json(out / "prompts.json", {"model": model, "data": data, **study})
    save(prompt_scatter(study), out / "prompts")
    typer.echo(f"{study['correlations']}; {path}")
