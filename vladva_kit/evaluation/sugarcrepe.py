"""SugarCrepe: an image, its caption, and a caption changed in one of seven ways (Hsieh et al. 2023, 2306.14610)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vladva_kit.data.validation import clean_caption, error_list, path_inside, require_keys, resolve_image_folder
from vladva_kit.evaluation.bootstrap import Score, category_scores, score
from vladva_kit.evaluation.cases import CaseScore, Result, json_entries, read_cases, result_fields
from vladva_kit.evaluation.encoding import EncoderOrScorer, encode_once
from vladva_kit.evaluation.metrics import Margins
from vladva_kit.models.images import BadInput

CATEGORIES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
GROUPS = {kind: [name for name in CATEGORIES if name.startswith(kind)] for kind in ("replace", "swap", "add")}
CHANCE = 50.0
COCO_IMAGES = "which is COCO's val2017 for the official files: unpack http://images.cocodataset.org/zips/val2017.zip"


@dataclass(frozen=True)
class SugarCrepeCase:
    """A case with the similarities of its true and its false caption; right if `margin` is above zero."""

    category: str
    id: str  # "swap_obj/3"
    image: Path
    caption: str
    negative_caption: str
    positive: float = 0.0
    negative: float = 0.0

    @property
    def margin(self) -> float:
        return self.positive - self.negative

    @property
    def same_words(self) -> bool:
        """Whether both captions have the same words in another order; an order-blind encoder ties on these."""
        return sorted_words(self.caption) == sorted_words(self.negative_caption)


def sorted_words(caption: str) -> list[str]:
    """Return the words of a caption in alphabetical order, in lower case and without punctuation."""
    return sorted(re.findall(r"[\w']+", caption.lower()))


@dataclass(frozen=True)
class SugarCrepeResult(Result):
    """Accuracy by category, by group (replace, swap, add: mean of their categories) and over all cases.

    `macro` weights categories equally (the VladVA paper), `micro` weights cases equally (the SugarCrepe paper, MIEB).
    `word_order` separates cases whose captions have the same words (572 of the official ones) from the others.
    """

    categories: dict[str, Score]
    groups: dict[str, Score]
    macro: Score
    micro: Score
    word_order: dict[str, Score] = field(default_factory=dict)

    def per_case(self) -> Iterator[CaseScore]:
        """Yield each case once."""
        for case in self.cases:
            tags = case.category, "same words" if case.same_words else "other words"
            names = case.id, case.category, case.image.name, case.caption, case.negative_caption
            yield CaseScore("accuracy", *names, case.margin, case.margin > 0, tags=tags)


def sugarcrepe_margins(positive: np.ndarray, negative: np.ndarray) -> Margins:
    """Apply SugarCrepe's rule to similarities (n,): the true caption scores strictly higher; chance is 50 %.

    Rule: `main_eval.py` of RAIVNLab/sugar-crepe.
    """
    return Margins(positive - negative, positive == negative)


def evaluate_sugarcrepe(
    embedder: EncoderOrScorer,
    source: str | Path,
    image_folder: str | Path | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> SugarCrepeResult:
    """Evaluate SugarCrepe by its official rule: `evaluate_sugarcrepe(embedder, vk.sample("sugarcrepe_mini")).macro`.

    `source` is a folder with the seven official JSON files (`data/` of RAIVNLab/sugar-crepe). Images are read from
    `image_folder` (COCO's val2017), or `<source>/images`. Intervals resample the cases of one image together.
    Raises BadInput for a missing file or image, other keys, or invalid JSON; a broken file is never skipped.
    """
    skipped = error_list(on_error)
    cases = load_sugarcrepe(source, image_folder, skipped)
    texts = [text for case in cases for text in (case.caption, case.negative_caption)]
    encoded = encode_once(embedder, [case.image for case in cases], texts, batch_size, cache)
    positive, negative = encoded.pair_scores(np.arange(len(texts)) // 2, np.arange(len(texts))).reshape(-1, 2).T
    margins, image = sugarcrepe_margins(positive, negative), encoded.image_index
    category, groups = [case.category for case in cases], image.tolist()
    chance = dict.fromkeys(CATEGORIES, CHANCE)
    scores = category_scores(margins, category, groups, chance, GROUPS | {"macro": CATEGORIES}, seed)
    same = np.array([case.same_words for case in cases])
    per_case = {"positive": positive, "negative": negative}
    return SugarCrepeResult(
        categories={name: scores[name] for name in CATEGORIES},
        groups={name: scores[name] for name in GROUPS},
        macro=scores["macro"],
        micro=score(margins.correct, CHANCE, margins.tied, groups, seed),
        word_order={
            name: score(margins.correct[chosen], CHANCE, margins.tied[chosen], image[chosen].tolist(), seed)
            for name, chosen in (("same words", same), ("other words", ~same))
            if chosen.any()
        },
        **result_fields("sugarcrepe", cases, [encoded.data], skipped, margins.tied, **per_case),
    )


def load_sugarcrepe(
    source: str | Path, image_folder: str | Path | None = None, skipped: list[str] | None = None
) -> list[SugarCrepeCase]:
    """Read and check the cases of all seven files, as `evaluate_sugarcrepe` does."""
    advice = "all seven files are needed: git clone https://github.com/RAIVNLab/sugar-crepe and give its folder data"
    paths = category_files(source, CATEGORIES, advice)
    images = resolve_image_folder(paths[0].parent, image_folder, COCO_IMAGES)

    def read(entry: tuple[str, str, Any], location: str) -> SugarCrepeCase:
        category, key, row = entry
        row = require_keys(row, ("filename", "caption", "negative_caption"), location)
        image = path_inside(images, row["filename"], location, "filename")
        caption, negative = (clean_caption(row[name], name, location) for name in ("caption", "negative_caption"))
        return SugarCrepeCase(category, f"{category}/{key}", image, caption, negative)

    entries = (entry for path in paths for entry in json_entries(path, dict))
    return read_cases(entries, read, source, skipped, CATEGORIES)


def category_folder(source: str | Path, categories: Sequence[str]) -> Path:
    """Return the folder of the categories' JSON files: the source, or its folder `data` as the repositories have it."""
    folder = Path(source)
    is_here = any((folder / f"{name}.json").is_file() for name in categories)
    return folder / "data" if not is_here and (folder / "data").is_dir() else folder


def category_files(source: str | Path, categories: Sequence[str], advice: str) -> list[Path]:
    """Return the JSON file of each category in a folder; raise BadInput with `advice` if some are missing."""
    paths = [category_folder(source, categories) / f"{name}.json" for name in categories]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise BadInput(f"{source} holds no {', '.join(missing)}; {advice}")
    return paths
