"""Options that several commands share, and what a model or data argument refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Out = Annotated[Path, typer.Option(help="Output folder.")]
Seed = Annotated[int, typer.Option(help="Random seed. On a CPU, the same seed gives the same numbers.")]
Steps = Annotated[int, typer.Option(help="Training steps.")]
BatchSize = Annotated[int, typer.Option(help="Pairs per step; each is a negative of all others.")]
Split = Annotated[str, typer.Option(help="Split of the data.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip unusable entries and list them instead of stopping.")]


def load_embedder(name: str, dtype: str | None = None) -> Any:
    """Load emoji-clip, an adapter with its base model, or a bare LVLM: `load_embedder("emoji-llava-vladva")`.

    dtype: of an LVLM, such as "bfloat16"; by default the one that suits the device.
    """
    import torch

    import vladva_kit as vk
    from vladva_kit.embedder.adapter import CONFIG_FILE, SHIPPED_ADAPTER

    load = {"dtype": getattr(torch, dtype)} if dtype else {}
    if name == "emoji-clip":
        return vk.ClipEmbedder(name)
    if name == SHIPPED_ADAPTER or (Path(name) / CONFIG_FILE).is_file():
        return vk.Embedder.from_pretrained(name, **load)
    return vk.Embedder(vk.load_lvlm(name, **load))


def resolve_data(name: str) -> str | Path:
    """Return the folder of a shipped sample, and any other name unchanged: `resolve_data("emoji_pairs")`."""
    import vladva_kit as vk
    from vladva_kit.data.samples import SAMPLES

    return vk.sample(name) if name in SAMPLES else name
