"""Winoground: two images, and two captions of the same words; match them (Thrush et al. 2022, arXiv 2204.03162)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vladva_kit.data.hub import is_on_hub, open_dataset
from vladva_kit.data.validation import (
    clean_caption,
    error_list,
    parse_json_line,
    path_inside,
    read_lines,
    require_id,
    require_keys,
)
from vladva_kit.evaluation.bootstrap import Score, groups_sharing, score
from vladva_kit.evaluation.cases import CaseScore, Result, read_cases, result_fields
from vladva_kit.evaluation.encoding import EncoderOrScorer, encode_once
from vladva_kit.evaluation.hub_data import DataSource, dataset_entries, winoground_folder
from vladva_kit.evaluation.metrics import Margins, check_scores
from vladva_kit.models.images import BadInput

CHANCE = {"text": 25.0, "image": 25.0, "group": 100 / 6}
IMAGES, CAPTIONS = ("image_0", "image_1"), ("caption_0", "caption_1")
KEYS = ("id", *IMAGES, *CAPTIONS)
TAGS = ("collapsed_tag", "tag", "secondary_tag", "num_main_preds")


@dataclass(frozen=True)
class WinogroundCase:
    """A case with its scores; `similarities[i][c]` is the similarity of image i with caption c."""

    id: str
    captions: tuple[str, str]
    images: tuple[Image.Image | Path | bytes, Image.Image | Path | bytes] = field(repr=False, compare=False)
    tags: dict[str, str]
    similarities: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    text_margin: float = 0.0
    image_margin: float = 0.0
    tied: bool = False
    first_sharing: str = field(default="", repr=False)  # id of the first case that shares an image with this one

    @property
    def group_margin(self) -> float:
        return min(self.text_margin, self.image_margin)

    margin = group_margin

    @property
    def category(self) -> str:
        """The tag by which results are usually reported."""
        return self.tags.get("collapsed_tag", self.tags.get("tag", ""))


@dataclass(frozen=True)
class WinogroundResult(Result):
    """Text, image and group score, also by tag: `result.breakdown["collapsed_tag"]["Relation"]["group"]`."""

    text: Score
    image: Score
    group: Score
    breakdown: dict[str, dict[str, dict[str, Score]]]

    def per_case(self) -> Iterator[CaseScore]:
        """Yield each case three times: text, image and group."""
        for case in self.cases:
            tags = tuple(dict.fromkeys(case.tags.values()))
            for name in CHANCE:
                margin = getattr(case, f"{name}_margin")
                image = case.first_sharing or case.id
                first, second = case.captions
                yield CaseScore(name, case.id, case.category, image, first, second, margin, margin > 0, tags=tags)


def winoground_margins(scores: Any) -> dict[str, Margins]:
    """Apply Winoground's rule to `scores` (n, 2 images, 2 captions): `winoground_margins(scores)["group"].correct`.

    Image i belongs to caption c where i == c. Text: each image prefers its caption; image: each caption prefers its
    image; group: both. All comparisons are strict; chance is 25, 25 and 16.7 %.
    Raises ValueError for another shape or NaN. Rule: Thrush et al. 2022, section 4.
    """
    scores = check_scores(scores, ndim=3)
    if scores.shape[1:] != (2, 2):
        raise ValueError(f"scores have shape {scores.shape}; Winoground needs (cases, 2 images, 2 captions)")
    right_0, right_1 = scores[:, 0, 0], scores[:, 1, 1]
    image_0_caption_1, image_1_caption_0 = scores[:, 0, 1], scores[:, 1, 0]
    text = np.minimum(right_0 - image_0_caption_1, right_1 - image_1_caption_0)
    image = np.minimum(right_0 - image_1_caption_0, right_1 - image_0_caption_1)
    text_tied = (right_0 == image_0_caption_1) | (right_1 == image_1_caption_0)
    image_tied = (right_0 == image_1_caption_0) | (right_1 == image_0_caption_1)
    return {
        "text": Margins(text, text_tied),
        "image": Margins(image, image_tied),
        "group": Margins(np.minimum(text, image), text_tied | image_tied),
    }


def evaluate_winoground(
    embedder: EncoderOrScorer,
    source: DataSource,
    split: str = "test",
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> WinogroundResult:
    """Evaluate Winoground by its official rule: `evaluate_winoground(embedder, vk.sample("winoground_mini")).group`.

    `source` is a folder with `examples.jsonl` and `images/` (or a folder whose `data/` has them), as in
    facebook/winoground, that hub id itself, or a `datasets.Dataset` with the columns id, image_0, image_1, caption_0,
    caption_1 and any of the tags. Intervals resample cases that share an image together. Transparent pixels are
    composited on white, as in all of the kit; the official script's `convert("RGB")` shows the colors beneath.
    Raises BadInput for a missing column, image or caption, a repeated id, or invalid JSON.
    """
    skipped = error_list(on_error)
    cases = load_winoground(source, split, skipped)
    images, captions = ([item for case in cases for item in getattr(case, key)] for key in ("images", "captions"))
    encoded = encode_once(embedder, images, captions, batch_size, cache)
    first = np.arange(0, len(images), 2)[:, None]
    similarities = encoded.pair_scores((first + [0, 0, 1, 1]).ravel(), (first + [0, 1, 0, 1]).ravel())
    similarities = similarities.reshape(-1, 2, 2)  # (n, image, caption)
    margins = winoground_margins(similarities)

    group = np.array(groups_sharing(encoded.image_index.reshape(-1, 2)))

    def scores(chosen: Any = slice(None)) -> dict[str, Any]:
        parts = {name: each[chosen] for name, each in margins.items()}
        groups = group[chosen].tolist()
        return {name: score(parts[name].correct, CHANCE[name], parts[name].tied, groups, seed) for name in CHANCE}

    breakdown: dict[str, dict[str, dict[str, Score]]] = {}
    for tag in TAGS:
        for value in sorted({case.tags[tag] for case in cases if tag in case.tags}):
            chosen = np.array([case.tags.get(tag) == value for case in cases])
            breakdown.setdefault(tag, {})[value] = scores(chosen)
    per_case = {
        "similarities": [(tuple(first), tuple(second)) for first, second in similarities.tolist()],
        "text_margin": margins["text"].margin,
        "image_margin": margins["image"].margin,
        "tied": margins["group"].tied,
        "first_sharing": [cases[index].id for index in group],
    }
    shared = result_fields("winoground", cases, [encoded.data], skipped, margins["group"].tied, **per_case)
    return WinogroundResult(**scores(), breakdown=breakdown, **shared)


def load_winoground(source: DataSource, split: str = "test", skipped: list[str] | None = None) -> list[WinogroundCase]:
    """Read and check all cases, as `evaluate_winoground` does."""
    if is_on_hub(source):
        source = winoground_folder(str(source))
    if isinstance(source, str | Path):
        root = Path(source) / ("data" if (Path(source) / "data" / "examples.jsonl").is_file() else "")
        if not (root / "examples.jsonl").is_file():
            raise BadInput(f"{source} holds no examples.jsonl; give Winoground's folder, or 'facebook/winoground'")
        if not (root / "images").is_dir():
            raise BadInput(f"{root / 'images'} is not a folder; unpack Winoground's images.zip next to examples.jsonl")
        folder: Path | None = root / "images"
        entries: Iterator[tuple[str, Any]] = read_lines(root / "examples.jsonl")
    else:
        dataset: Any = open_dataset(source, split)
        require_keys(dict.fromkeys(dataset.column_names), KEYS, "the dataset")
        entries, folder = dataset_entries(dataset, IMAGES), None
    return read_cases(entries, partial(_read_case, folder=folder), source, skipped)


def _read_case(entry: Any, location: str, folder: Path | None) -> WinogroundCase:
    """Read a case from a line of the official file, whose images are in `folder`, or from (key, row) of a dataset."""
    if folder is None:
        row = entry[1]
        images = [row[key] for key in IMAGES]
    else:
        row = require_keys(parse_json_line(entry, location), KEYS, location)
        paths = [path_inside(folder, row[key], location, key) for key in IMAGES]
        # the official file names its images without a suffix ("ex_0_img_0"), and they are PNG
        images = [path if path.is_file() or path.suffix else path.with_name(f"{path.name}.png") for path in paths]
    key = str(require_id(row["id"], "id", location))
    first, second = (clean_caption(row[key], key, location) for key in CAPTIONS)
    tags = {name: str(row[name]).strip() for name in TAGS if row.get(name) is not None}
    return WinogroundCase(key, (first, second), tuple(images), {name: tag for name, tag in tags.items() if tag})
