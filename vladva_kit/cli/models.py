"""Commands for one model: `check`, `memory`, `export`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import Out, load_embedder, quiet_libraries

FORMATS = ("sentence-transformers", "onnx")  # of an exported folder


def check(
    model: Annotated[str, typer.Argument(help="emoji-llava, a model folder or a Hub id, of any family.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Default: by device.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")] = None,
) -> None:
    """Run the eight checks of an LVLM and print one line for each. Exit with status 1 if a check fails."""
    import torch

    import vladva_kit as vk
    from vladva_kit.models.device import choose_device

    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"unknown dtype '{dtype}'; choose from float32, bfloat16, float16")
    quiet_libraries()
    choice = choose_device(device, getattr(torch, dtype) if dtype else None)
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
    format: Annotated[str, typer.Option(help="sentence-transformers, or onnx: a file per encoder.")] = FORMATS[0],
) -> None:
    """Merge the adapter into the model and write a folder for another library. It embeds but cannot generate."""
    from vladva_kit.embedder.export import export as export_embedder
    from vladva_kit.embedder.onnx_export import export_onnx

    if format not in FORMATS:
        raise typer.BadParameter(f"unknown format '{format}'; choose from {', '.join(FORMATS)}")
    embedder = load_embedder(model)
    if not hasattr(embedder, "lvlm"):
        raise typer.BadParameter(f"'{model}' is not an LVLM; other libraries load a CLIP model directly")
    typer.echo((export_onnx if format == "onnx" else export_embedder)(embedder, out))
