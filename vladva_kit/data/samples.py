"""Find the shipped samples, or draw them once where the kit is installed without them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

from vladva_kit.emoji_world.samples import DRAWN, write_sample
from vladva_kit.models.images import BadInput

SAMPLES = (*DRAWN, "photos")


def sample(name: str, cache_dir: str | Path | None = None) -> Path:
    """The folder of a sample: `sample("emoji_pairs")`; one of SAMPLES.

    The pictures of sugarcrepe_pp_mini, word_order_mini, captions_mini and vqa_mini are those of sugarcrepe_mini.
    It is `data_samples/<name>` beside the package; where the kit is installed without it, the emoji samples are drawn
    once into `<cache_dir>/<version>/<name>` (`~/.cache/vladva_kit` unless told), whole or not at all.
    Raises BadInput for an unknown name, and FileNotFoundError for the photographs, which cannot be drawn.
    """
    if name not in SAMPLES:
        raise BadInput(f"unknown sample {name!r}; there are {', '.join(SAMPLES)}")
    shipped = Path(__file__).resolve().parents[2] / "data_samples" / name
    if shipped.is_dir() and any(shipped.iterdir()):
        return shipped
    if name == "photos":
        raise FileNotFoundError(
            f"the sample 'photos' is not at {shipped} and cannot be drawn; copy data_samples/photos from the "
            "vladva_kit repository there, or use sample('emoji_pairs')"
        )
    folder = Path(cache_dir or Path.home() / ".cache" / "vladva_kit") / _version() / name
    if not folder.is_dir():
        _draw_whole(name, folder)
    return folder


def _version() -> str:
    try:
        return importlib.metadata.version("vladva-kit")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "checkout"


def _draw_whole(name: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        write_sample(name, unfinished / name)
        if not folder.is_dir():  # another process may have finished first
            os.replace(unfinished / name, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
