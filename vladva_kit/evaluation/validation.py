"""Benchmarks as the validation of a training run: a function from an embedder to metrics in percent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.evaluation.encoding import ImageTextEncoder
from vladva_kit.evaluation.winoground import CAPTIONS, load_winoground, winoground_margins
from vladva_kit.training.validation import Validate, recall_on


def metrics_on(*sources: Any) -> Callable[[Embedder], dict[str, float]]:
    """Make a validation from benchmarks: the Winoground scores, and recall@1 of pairs, in percent.

        validation = metrics_on(sample("winoground_mini"), sample("emoji_pairs"))
        fit(embedder, pairs, settings, validation=validation, early_stopping=3)     # by the first: winoground_group

    sources: what `evaluate_winoground` takes, a folder, hub id or Dataset, or pairs, of a folder its split
    "validation". The metrics are winoground_group, _text and _image; mean_r1, image_to_text_r1 and text_to_image_r1.
    Everything is read and checked at once, before training.
    Raises ValueError without a source or with two of a kind, BadInput for unusable data.
    """
    if not sources:
        raise ValueError("metrics_on() has no source: pass sample('winoground_mini'), pairs, or both")
    kinds = [_is_winoground(source) for source in sources]
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"metrics_on has {len(kinds)} sources, two of a kind: pass Winoground once and pairs once")
    parts = [_winoground_on(source) if kind else recall_on(source) for source, kind in zip(sources, kinds, strict=True)]
    return lambda embedder: {name: value for part in parts for name, value in part(embedder).items()}


def winoground_cosines(embedder: ImageTextEncoder, images: Sequence[Image.Image], captions: list[str]) -> np.ndarray:
    """Return the cosines of each case's two images with its two captions: (n, 2 images, 2 captions).

    winoground_cosines(embedder, [dog_above, cat_above], ["a dog above a cat", "a cat above a dog"])    # (1, 2, 2)
    """
    first, second = embedder.encode_image(images), embedder.encode_text(captions)
    return (first.view(len(first) // 2, 2, -1) @ second.view(len(second) // 2, 2, -1).transpose(1, 2)).numpy()


def winoground_percent(embedder: Embedder, images: Sequence[Image.Image], captions: list[str]) -> dict[str, float]:
    """Compute the Winoground scores of cases, two images and two captions each, by `winoground_margins`.

    winoground_percent(embedder, [dog_above, cat_above], ["a dog above a cat", "a cat above a dog"])["winoground_group"]
    """
    margins = winoground_margins(winoground_cosines(embedder, images, captions))
    return {f"winoground_{name}": 100 * float(margins[name].correct.mean()) for name in ("group", "text", "image")}


def _winoground_on(source: Any) -> Validate:
    cases = load_winoground(source)
    images, captions = ([item for case in cases for item in getattr(case, key)] for key in ("images", "captions"))
    return partial(winoground_percent, images=images, captions=captions)


def _is_winoground(source: Any) -> bool:
    """Tell Winoground from pairs, by the official file in a folder, by the name of a hub id, or by the columns."""
    if isinstance(source, str | Path):
        here = any((Path(source) / part / "examples.jsonl").is_file() for part in ("", "data"))
        return here or str(source) == "facebook/winoground"
    columns = getattr(next(iter(source.values())) if isinstance(source, dict) else source, "column_names", ())
    return set(CAPTIONS) <= set(columns)
