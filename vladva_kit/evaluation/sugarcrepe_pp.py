"""SugarCrepe++: an image, two true captions in different words, and a false one (Dumpala et al. 2024, 2406.11171)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vladva_kit.data.hub import is_on_hub
from vladva_kit.data.validation import clean_caption, error_list, path_inside, require_keys, resolve_image_folder
from vladva_kit.evaluation.bootstrap import Score, category_scores, score
from vladva_kit.evaluation.cases import CaseScore, Result, json_entries, read_cases, result_fields
from vladva_kit.evaluation.encoding import Encoded, EncoderOrScorer, dots, encode_once
from vladva_kit.evaluation.hub_data import hub_file
from vladva_kit.evaluation.metrics import Margins
from vladva_kit.evaluation.sugarcrepe import COCO_IMAGES, category_files, category_folder

CATEGORIES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")
TEXTS = ("caption", "caption2", "negative_caption")
CHANCE = 100 / 3


@dataclass(frozen=True)
class SugarCrepePPCase:
    """A case with its margins in both tasks: image to text (`itt`) and text only (`tot`)."""

    category: str
    id: str  # "swap_obj/3"
    image: Path
    texts: tuple[str, str, str]  # two true captions, and the false one
    itt: float = 0.0
    tot: float = 0.0

    @property
    def margin(self) -> float:
        return self.itt


@dataclass(frozen=True)
class SugarCrepePPResult(Result):
    """Accuracy with the image (`itt`) and with text only (`tot`): by category, "macro" and "micro".

    A scorer cannot compare texts: its `tot` is empty.
    """

    itt: dict[str, Score]
    tot: dict[str, Score]

    def per_case(self) -> Iterator[CaseScore]:
        """Yield each case twice: image to text, and text only."""
        for case in self.cases:
            texts = case.texts[0], case.texts[2]
            for task, margin in (("itt", case.itt), ("tot", case.tot))[: 2 if self.tot else 1]:
                yield CaseScore(task, case.id, case.category, case.image.name, *texts, margin, margin > 0)


def itt_margins(first: np.ndarray, second: np.ndarray, negative: np.ndarray) -> Margins:
    """Image to text, from similarities (n,) with the image: both true captions score higher than the false one.

    Chance is 33.3 %. Rule: Dumpala et al. 2024, section 4, ITT.
    """
    lower = np.minimum(first, second)
    return Margins(lower - negative, lower == negative)


def tot_margins(positives: np.ndarray, first_negative: np.ndarray, second_negative: np.ndarray) -> Margins:
    """Text only, from similarities (n,) of captions: the true ones are closer to each other than to the false one.

    Chance is 33.3 %. Rule: Dumpala et al. 2024, section 4, TOT.
    """
    closer = np.maximum(first_negative, second_negative)
    return Margins(positives - closer, positives == closer)


def evaluate_sugarcrepe_pp(
    embedder: EncoderOrScorer,
    source: str | Path,
    image_folder: str | Path | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> SugarCrepePPResult:
    """Evaluate SugarCrepe++ by its official rule: `evaluate_sugarcrepe_pp(embedder, "scpp/data", "val2017").itt`.

    `source` is a folder with the five official JSON lists (`data/` of Sri-Harsha/scpp), or the hub id
    Aman-J/SugarCrepe_pp. Images are read from `image_folder` (COCO's val2017), or `<source>/images`.
    Intervals resample the cases of one image together.
    Raises BadInput for a missing file or image, other keys, invalid JSON or a repeated id.
    """
    skipped = error_list(on_error)
    cases = load_sugarcrepe_pp(source, image_folder, skipped)
    texts = [text for case in cases for text in case.texts]
    encoded = encode_once(embedder, [case.image for case in cases], texts, batch_size, cache)
    itt = itt_margins(*encoded.pair_scores(np.arange(len(texts)) // 3, np.arange(len(texts))).reshape(-1, 3).T)
    tot = None
    if isinstance(encoded, Encoded):
        first, second, false = (encoded.texts[position::3] for position in range(3))
        tot = tot_margins(dots(first, second), dots(first, false), dots(second, false))
    categories, groups = [case.category for case in cases], encoded.image_index.tolist()

    def scores(margins: Margins) -> dict[str, Score]:
        chance = dict.fromkeys(CATEGORIES, CHANCE)
        by_category = category_scores(margins, categories, groups, chance, {"macro": CATEGORIES}, seed)
        return by_category | {"micro": score(margins.correct, CHANCE, margins.tied, groups, seed)}

    per_case = {"itt": itt.margin} | ({} if tot is None else {"tot": tot.margin})
    tied = itt.tied if tot is None else itt.tied | tot.tied
    shared = result_fields("sugarcrepe_pp", cases, [encoded.data], skipped, tied, **per_case)
    return SugarCrepePPResult(itt=scores(itt), tot={} if tot is None else scores(tot), **shared)


def load_sugarcrepe_pp(
    source: str | Path, image_folder: str | Path | None = None, skipped: list[str] | None = None
) -> list[SugarCrepePPCase]:
    """Read and check the cases of all five files, as `evaluate_sugarcrepe_pp` does."""
    images = resolve_image_folder(category_folder(source, CATEGORIES), image_folder, COCO_IMAGES)
    if is_on_hub(source):
        paths = [hub_file(str(source), [f"data/{name}.json", f"{name}.json"]) for name in CATEGORIES]
    else:
        advice = "give 'Aman-J/SugarCrepe_pp', or the folder data of a git clone of https://github.com/Sri-Harsha/scpp"
        paths = category_files(source, CATEGORIES, f"all five files are needed: {advice}")

    def read(entry: tuple[str, str, Any], location: str) -> SugarCrepePPCase:
        category, _, row = entry
        row = require_keys(row, ("id", "filename", *TEXTS), location)
        image = path_inside(images, row["filename"], location, "filename")
        first, second, false = (clean_caption(row[name], name, location) for name in TEXTS)
        return SugarCrepePPCase(category, f"{category}/{row['id']}", image, (first, second, false))

    entries = (entry for path in paths for entry in json_entries(path))
    return read_cases(entries, read, source, skipped, CATEGORIES)
