"""Commands for one model: `check` and `memory` before it is used, `export` after."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.commands.options import Out, named_embedder


def check(
    model: Annotated[str, typer.Argument(help="emoji-llava, a folder or a hub id; of any family.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; chosen by the device.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …")] = None,
) -> None:
    """Holds a model to the eight checks that make a family trusted; exit status 1 where one fails."""
    import torch

    import vladva_kit as vk
    from vladva_kit.checks import run_checks
    from vladva_kit.placement import place

    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"no dtype is called '{dtype}': float32, bfloat16 or float16")
    placement = place(device, dtype and getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no record of it")  # the first line says so
        lvlm = vk.load_lvlm(model, dtype=placement.dtype, device=placement.device, check=False)
    known = "" if lvlm.family.tested else f" ({lvlm.family.note})"
    typer.echo(f"{model}: family {lvlm.family.model_type}{known}; {placement.why}")
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
    from vladva_kit.memory import what_fits_where

    typer.echo(what_fits_where(models))


def export(
    model: Annotated[str, typer.Argument(help="An adapter's folder, or an LVLM with its hand-written prompts.")],
    out: Out = Path("runs/exported"),
) -> None:
    """Writes the towers as a folder that sentence-transformers loads; it embeds and does not talk."""
    from vladva_kit.interop.sentence_transformers import export as export_towers

    embedder = named_embedder(model)
    if not hasattr(embedder, "lvlm"):
        raise typer.BadParameter(f"'{model}' is no LVLM: sentence-transformers loads a CLIP by its own name")
    typer.echo(export_towers(embedder, out))
