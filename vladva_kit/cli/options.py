"""Options that several commands share, and the model that a name stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Out = Annotated[Path, typer.Option(help="Folder for what is made.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same figures on a CPU.")]
Steps = Annotated[int, typer.Option(help="Updates.")]
BatchSize = Annotated[int, typer.Option(help="Pairs a step: each is the negative of all others.")]
Rate = Annotated[float, typer.Option(help="AdamW's peak learning rate.")]


def named_embedder(name: str) -> Any:
    """emoji-clip, an adapter's folder, or any LVLM as it is: `named_embedder("emoji-llava-vladva")`."""
    import vladva_kit as vk
    from vladva_kit.embedder.adapter import RECORD

    if name == "emoji-clip":
        return vk.ClipEmbedder(name)
    if name == "emoji-llava-vladva" or (Path(name) / RECORD).is_file():
        return vk.Embedder.from_pretrained(name)
    return vk.Embedder(vk.load_lvlm(name))
