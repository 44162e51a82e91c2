"""Find the sample datasets, or draw them once if the package is installed without them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import vladva_kit
from vladva_kit.emoji_world.samples import DRAWN, write_sample
from vladva_kit.models.images import BadInput

SAMPLES = (*DRAWN, "photos")


def sample(name: str, cache_dir: str | Path | None = None) -> Path:
    """Return the folder of a sample dataset, one of SAMPLES: `sample("emoji_pairs")`.

    This is `data_samples/<name>` next to the package. If that does not exist, emoji samples are drawn once, atomically,
    into `<cache_dir>/<version>/<name>` (cache_dir is `~/.cache/vladva_kit` by default). The images of
    sugarcrepe_pp_mini, word_order_mini, captions_mini and vqa_mini are those of sugarcrepe_mini.
    Raises BadInput for an unknown name, and FileNotFoundError for the photos, which cannot be drawn.
    """
    if name not in SAMPLES:
        raise BadInput(f"unknown sample {name!r}; the samples are {', '.join(SAMPLES)}")
    shipped = Path(__file__).resolve().parents[2] / "data_samples" / name
    if shipped.is_dir() and any(shipped.iterdir()):
        return shipped
    if name == "photos":
        raise FileNotFoundError(
            f"the sample 'photos' is not at {shipped} and cannot be drawn; copy data_samples/photos from the "
            "vladva_kit repository there, or use sample('emoji_pairs')"
        )
    folder = Path(cache_dir or Path.home() / ".cache" / "vladva_kit") / vladva_kit.__version__ / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
        write_sample(name, Path(temporary) / name)
        if not folder.is_dir():  # another process may have finished first
            os.replace(Path(temporary) / name, folder)
    return folder
