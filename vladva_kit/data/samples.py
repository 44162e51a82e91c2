"""Find the sample datasets, which are shipped with the package."""

from __future__ import annotations

from pathlib import Path

from vladva_kit.models.images import BadInput

SAMPLES = (
    "emoji_pairs",
    "winoground_mini",
    "sugarcrepe_mini",
    "sugarcrepe_pp_mini",
    "word_order_mini",
    "captions_mini",
    "classification_mini",
    "vqa_mini",
    "openmoji",
    "photos",
)


def sample(name: str) -> Path:
    """Return the folder of a sample dataset, one of SAMPLES: `sample("emoji_pairs")`.

    Samples are in `data_samples` inside the installed package, or next to the package in a checkout. The images of
    sugarcrepe_pp_mini, word_order_mini, captions_mini and vqa_mini are those of sugarcrepe_mini. openmoji holds
    Winoground cases and pairs in a second held-out style, which no choice was based on.
    Raises BadInput for an unknown name, and FileNotFoundError if the folder is missing or empty.
    """
    if name not in SAMPLES:
        raise BadInput(f"unknown sample {name!r}; the samples are {', '.join(SAMPLES)}")
    package = Path(__file__).resolve().parents[1]
    folders = [parent / "data_samples" / name for parent in (package, package.parent)]
    for folder in folders:
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    raise FileNotFoundError(
        f"the sample '{name}' is neither at {folders[0]} nor at {folders[1]}; reinstall vladva_kit, or copy "
        f"data_samples/{name} from its repository to one of them"
    )
