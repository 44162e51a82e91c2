"""Word order as in ARO: an image, its caption, and the same words reordered (Yuksekgonul et al. 2023, 2210.01936)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vladva_kit.data.hub import is_on_hub, open_dataset
from vladva_kit.data.validation import clean_caption, error_list, path_inside, require_keys, resolve_image_folder
from vladva_kit.embedder.identity import image_key
from vladva_kit.evaluation.bootstrap import Score, category_scores, number_unique, score
from vladva_kit.evaluation.cases import CaseScore, Result, json_entries, read_cases, result_fields
from vladva_kit.evaluation.encoding import EncoderOrScorer, encode_once
from vladva_kit.evaluation.hub_data import DataSource, dataset_entries, find_columns
from vladva_kit.evaluation.metrics import Margins
from vladva_kit.models.images import BadInput, Crop

SUBSETS = {
    "visual_genome_relation": "relation",
    "visual_genome_attribution": "attribution",
    "coco_order": "coco_order",
    "flickr30k_order": "flickr30k_order",
}
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
MIN_CASES = {"attribution": 25}  # rarer pairs of attributes are left out of the mean, as in ARO's own script
MEAN = "mean"


@dataclass(frozen=True)
class WordOrderCase:
    """A case; right if `margin`, the true caption's score minus the best wrong one's, is above zero."""

    subset: str
    id: str  # "relation/3"
    image: Any = field(repr=False)
    caption: str
    wrong: tuple[str, ...]
    category: str = ""  # the relation, or the pair of attributes
    margin: float = 0.0


@dataclass(frozen=True)
class WordOrderResult(Result):
    """Accuracy of each subset over its cases, and its mean over relations or pairs of attributes, as ARO reports it."""

    accuracy: dict[str, Score]
    macro: dict[str, Score]  # of the subsets whose cases have a category
    breakdown: dict[str, dict[str, Score]]

    def per_case(self) -> Iterator[CaseScore]:
        """Yield each case once, with its subset as the score."""
        for case in self.cases:
            image, texts = image_key(_file(case.image))[:16], (case.caption, case.wrong[0])
            yield CaseScore(case.subset, case.id, case.category, image, *texts, case.margin, case.margin > 0)


def _file(image: Any) -> Any:
    """Return the image of a crop: boxes of one image are not independent."""
    return image.image if isinstance(image, Crop) else image


def choice_margin(true: float, wrong: np.ndarray) -> float:
    """Return how far the true caption leads the best wrong one; the choice is right if that is above zero.

    Chance is 1 / (1 + number of wrong captions). Rule: ARO, except that a tie is wrong.
    """
    return float(true - wrong.max())


def evaluate_word_order(
    embedder: EncoderOrScorer,
    source: DataSource,
    image_folder: str | Path | None = None,
    split: str = "test",
    without: Collection[str] = (),
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> WordOrderResult:
    """Evaluate word order by ARO's rule with strict ties: `evaluate_word_order(embedder, "aro").macro["relation"]`.

    `source` is one of
    - a folder with any of ARO's files, or one of them: `visual_genome_relation.json`, `visual_genome_attribution.json`
      (their images are cropped to the given box), `coco_order.json`, `flickr30k_order.json`, whose entries are ARO's
      test cases `{"image", "caption_options": [true, wrong, …]}`; image paths start from `image_folder`, or
      `<folder>/images`;
    - a `datasets.Dataset` or hub id with the columns image, true_caption and false_caption, or images, correct_caption
      and hard_text_1, …, as in gowitheflow/ARO-Visual-Relation and gowitheflow/ARO-COCO-order.

    The shuffled captions of the order tasks are used as given; ARO's script samples new ones without a seed.
    `without` names relations to leave out of the mean; ARO's notebook leaves out the symmetric ones. Chance is 50 %
    with one wrong caption, 20 % with four. Intervals resample the cases of one image together.
    Raises BadInput for a missing file, image or column, invalid JSON, or an empty box.
    """
    skipped = error_list(on_error)
    cases = load_word_order(source, image_folder, split, skipped)
    texts = [text for case in cases for text in (case.caption, *case.wrong)]
    encoded = encode_once(embedder, [case.image for case in cases], texts, batch_size, cache)
    owner = np.repeat(np.arange(len(cases)), [1 + len(case.wrong) for case in cases])  # the case of each text
    by_case = np.split(encoded.pair_scores(owner, range(len(texts))), np.flatnonzero(np.diff(owner)) + 1)
    margin = np.array([choice_margin(options[0], options[1:]) for options in by_case])
    margins = Margins(margin, margin == 0)
    image = number_unique([image_key(_file(case.image)) for case in cases])
    accuracy, macro, breakdown = {}, {}, {}
    for subset in dict.fromkeys(case.subset for case in cases):
        chosen = [index for index, case in enumerate(cases) if case.subset == subset]
        chance = 100.0 * float(np.mean([1 / (1 + len(cases[index].wrong)) for index in chosen]))
        accuracy[subset] = score(margins.correct[chosen], chance, margins.tied[chosen], image[chosen].tolist(), seed)
        counts = Counter(cases[index].category for index in chosen if cases[index].category)
        kept = [name for name, n in sorted(counts.items()) if n >= MIN_CASES.get(subset, 1) and name not in without]
        if kept:
            chosen = [index for index in chosen if cases[index].category in kept]
            categories, chances = [cases[index].category for index in chosen], dict.fromkeys(kept, chance)
            scores = category_scores(margins[chosen], categories, image[chosen].tolist(), chances, {MEAN: kept}, seed)
            macro[subset], breakdown[subset] = scores.pop(MEAN), scores
    shared = result_fields("word_order", cases, [encoded.data], skipped, margins.tied, margin=margin)
    return WordOrderResult(accuracy, macro, breakdown, **shared)


def load_word_order(
    source: DataSource, image_folder: str | Path | None = None, split: str = "test", skipped: list[str] | None = None
) -> list[WordOrderCase]:
    """Read and check all cases, as `evaluate_word_order` does."""
    dataset = open_dataset(source, split)
    if dataset is None:
        root, names = Path(source), [f"{name}.json" for name in SUBSETS]
        paths = [root] if root.suffix == ".json" else [root / name for name in names if (root / name).is_file()]
        if not paths or paths[0].name not in names:
            any_of = f"any of {', '.join(names)}"
            raise BadInput(f"{source} is not, and does not hold, {any_of}; give ARO's files or their folder")
        images = resolve_image_folder(paths[0].parent, image_folder, "the folder that image names start from")
        entries: Iterator[tuple[str, Any]] = (entry for path in paths for entry in json_entries(path))
        read: Callable[[Any, str], WordOrderCase] = partial(_read_entry, folder=images)
    else:
        wrong = [name for name in dataset.column_names if name == "false_caption" or name.startswith("hard_text_")]
        options = {"true_caption": ("true_caption", "correct_caption"), "false_caption": wrong}
        image, true, _ = find_columns(dataset, image=("image", "images"), **options)
        name = str(source).rpartition("/")[2].removeprefix("ARO-").lower().replace("-", "_")
        subset = name if is_on_hub(source) else "accuracy"

        def read_row(entry: tuple[str, dict[str, Any]], location: str) -> WordOrderCase:
            key, row = entry
            return _case(subset, key, row[image], [row[name] for name in (true, *wrong)], row, location)

        read = read_row
        entries = dataset_entries(dataset, [image])
    return read_cases(entries, read, source, skipped)


def _read_entry(entry: tuple[str, str, Any], location: str, folder: Path) -> WordOrderCase:
    stem, key, row = entry
    subset = SUBSETS[stem]
    if subset not in ("relation", "attribution"):
        row = require_keys(row, ("image", "caption_options"), location)
        image = path_inside(folder, row["image"], location, "image")
        return _case(subset, key, image, row["caption_options"], {}, location)
    row = require_keys(row, ("image_path", "true_caption", "false_caption", *BOX), location)
    box = [row[name] for name in BOX]
    if not all(isinstance(side, int | float) and abs(side) < 2**31 for side in box) or min(map(int, box[2:])) < 1:
        raise BadInput(f"{location}: the box {dict(zip(BOX, box, strict=True))} has no width or height; correct it")
    left, top, width, height = map(int, box)
    path = path_inside(folder, row["image_path"], location, "image_path")
    crop = Crop(path, (left, top, left + width, top + height))
    return _case(subset, key, crop, [row["true_caption"], row["false_caption"]], row, location)


def _case(subset: str, key: str, image: Any, options: Any, row: dict[str, Any], location: str) -> WordOrderCase:
    """Create a case from its captions, the true one first, and the relation or attributes in its row."""
    if not isinstance(options, list) or len(options) < 2:
        raise BadInput(f"{location}: {options!r} is not a list of a true caption and at least one wrong one")
    true, *wrong = (clean_caption(text, "caption", location) for text in options)
    attributes, relation = row.get("attributes"), str(row.get("relation_name") or "")
    category = "_".join(map(str, attributes)) if isinstance(attributes, list) else relation
    return WordOrderCase(subset, f"{subset}/{key}", image, true, tuple(wrong), category)
