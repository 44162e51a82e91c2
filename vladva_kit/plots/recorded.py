"""Curves of runs that take too long for a notebook, recorded by the study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

COLLAPSE = "recorded_collapse.json"  # written by docs/update_readme.py from the study's results


@dataclass(frozen=True)
class RecordedCollapse:
    """Two runs of the study, with the contrastive loss on short or on long captions.

    curves: by variant, one history per seed, as `plots.loss_curves` takes them. recall: text → image R@1 in percent,
    unseen style, by variant. command: what made the results.
    """

    curves: dict[str, list[dict[str, list[float]]]]
    recall: dict[str, float]
    command: str


def recorded_collapse() -> RecordedCollapse:
    """Return the recorded curves: `plots.loss_curves(plots.recorded_collapse().curves)`.

    Raises FileNotFoundError if the installation lacks the file.
    """
    path = resources.files("vladva_kit.plots") / COLLAPSE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: reinstall vladva_kit, or write it with docs/update_readme.py")
    return RecordedCollapse(**json.loads(path.read_text(encoding="utf-8")))
