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
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables; messages go to stderr.")]


def quiet_libraries() -> None:
    """Hide transformers' bars for reading and writing weights; those of downloads stay: `quiet_libraries()`."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    hidden = are_progress_bars_disabled()
    logging.disable_progress_bar()
    if not hidden:
        enable_progress_bars()


def load_embedder(name: str, dtype: str | None = None) -> Any:
    """Load a CLIP or another baseline, an adapter with its base, or a bare LVLM: `load_embedder("emoji-llava-vladva")`.

    All but a name such as `open_clip:…` may be a folder or a hub id; a folder written by `vladva export` is loaded with
    sentence-transformers, and one that only open_clip reads with open_clip. dtype: of an LVLM, such as "bfloat16"; by
    default the one that suits the device.
    """
    import torch

    import vladva_kit as vk
    from vladva_kit.embedder.adapter import CONFIG_FILE, SHIPPED_ADAPTER
    from vladva_kit.evaluation.baselines import CLIP_TYPES, LIBRARIES
    from vladva_kit.models.hub import KIND_FILES, download, is_hub_id
    from vladva_kit.models.load import model_type

    quiet_libraries()
    load = {"dtype": getattr(torch, dtype)} if dtype else {}
    if name.partition(":")[0] in LIBRARIES:
        return vk.load_baseline(name)
    # asked of the repository before transformers sees it, which would load an adapter without its soft prompts
    on_hub = is_hub_id(name) and not Path(name).is_dir()
    folder = download(name, KIND_FILES) if on_hub else Path(name)
    if name == SHIPPED_ADAPTER or (folder / CONFIG_FILE).is_file():
        return vk.Embedder.from_pretrained(name, **load)
    if (folder / "modules.json").is_file():
        return vk.load_baseline(f"sentence_transformers:{name}")
    if (folder / "open_clip_config.json").is_file() and not (folder / "config.json").is_file():
        return vk.load_baseline(f"open_clip:{'hf-hub' if on_hub else 'local-dir'}:{name}")
    if model_type(name) in CLIP_TYPES:
        return vk.load_baseline(name)
    return vk.Embedder(vk.load_lvlm(name, **load))


def require_generation(embedder: Any, name: str) -> None:
    """Raise BadParameter for a model that cannot generate text: `require_generation(embedder, "emoji-clip")`."""
    if not hasattr(embedder, "generate_batch"):
        raise typer.BadParameter(f"'{name}' cannot generate text: give an LVLM or an adapter, such as emoji-llava")


def resolve_data(name: str) -> str | Path:
    """Return the folder of a shipped sample, and any other name unchanged: `resolve_data("emoji_pairs")`."""
    import vladva_kit as vk
    from vladva_kit.data.samples import SAMPLES

    return vk.sample(name) if name in SAMPLES else name
