"""Word order as in ARO: a picture, its caption, and the same words put wrong (Yuksekgonul et al. 2023, 2210.01936)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    collect_errors,
    entry_with,
    error_list,
    images_of,
    path_inside,
    pick_split,
    read_json,
    rows_undecoded,
)
from vladva_kit.evaluation.bootstrap import Score, category_scores, score
from vladva_kit.evaluation.encoding import (
    ImageTextEncoder,
    content_digest,
    data_fingerprint,
    dots,
    encode_once,
    image_key,
)
from vladva_kit.evaluation.hub_data import hub_dataset, is_hub_id
from vladva_kit.evaluation.metrics import ChoiceScores, choice
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.models.images import BadInput, Crop

if TYPE_CHECKING:
    import datasets

FILES = {
    "visual_genome_relation.json": "relation",
    "visual_genome_attribution.json": "attribution",
    "coco_order.json": "coco_order",
    "flickr30k_order.json": "flickr30k_order",
}
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
LEAST = {"attribution": 25}  # pairs of attributes with fewer cases are left out of the mean, as in ARO's own script
MEAN = "mean"
IMAGE_COLUMNS = ("image", "images")
TRUE_COLUMNS = ("true_caption", "correct_caption")


@dataclass(frozen=True)
class WordOrderCase:
    """One case; right where `margin`, the true caption's score minus the best wrong one's, is above zero."""

    subset: str
    key: str
    image: Any = field(repr=False)
    caption: str
    wrong: tuple[str, ...]
    category: str = ""  # the relation, or the pair of attributes
    margin: float = 0.0


@dataclass(frozen=True)
class WordOrderResult:
    """Accuracy of each subset over its cases, and its mean over relations or pairs of attributes, which ARO reports."""

    accuracy: dict[str, Score]
    macro: dict[str, Score]  # of the subsets whose cases have a category
    breakdown: dict[str, dict[str, Score]]
    n: int
    ties: int
    cases: tuple[WordOrderCase, ...] = field(repr=False)
    data: str = ""  # fingerprint of the cases scored
    skipped: tuple[str, ...] = ()  # why a case was left out, where that was asked for

    def margins(self) -> Iterator[CaseScore]:
        """Each case once, by its subset."""
        for case in self.cases:
            image = content_digest(case.image)[:16]
            key = f"{case.subset}/{case.key}"
            texts = case.caption, case.wrong[0]
            yield CaseScore(case.subset, key, case.category, image, *texts, case.margin, case.margin > 0)

    def worst(self, k: int = 5) -> list[WordOrderCase]:
        """The `k` cases with the lowest margin, worst first."""
        return sorted(self.cases, key=lambda case: case.margin)[:k]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts for JSON; the images themselves are left out."""
        cases = [asdict(replace(case, image=None)) for case in self.cases]
        for case in cases:
            del case["image"]
        return {
            "accuracy": {name: asdict(one) for name, one in self.accuracy.items()},
            "macro": {name: asdict(one) for name, one in self.macro.items()},
            "breakdown": {
                name: {kind: asdict(one) for kind, one in kinds.items()} for name, kinds in self.breakdown.items()
            },
            "n": self.n,
            "ties": self.ties,
            "data": self.data,
            "skipped": list(self.skipped),
            "cases": cases,
        }


def evaluate_word_order(
    embedder: ImageTextEncoder,
    source: str | Path | datasets.Dataset,
    image_folder: str | Path | None = None,
    split: str = "test",
    without: Collection[str] = (),
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> WordOrderResult:
    """ARO's rule, ties not given away: `evaluate_word_order(embedder, "aro").macro["relation"].percent`.

    `source` is one of
    - a folder with any of ARO's files, or one of them: `visual_genome_relation.json`, `visual_genome_attribution.json`
      (their images are cut to the box given), `coco_order.json`, `flickr30k_order.json`, whose entries are ARO's test
      cases `{"image", "caption_options": [true, wrong, …]}`; images start from `image_folder`, or `<folder>/images`;
    - a `datasets.Dataset` or hub id with the columns image, true_caption and false_caption, or images, correct_caption
      and hard_text_1, …, as gowitheflow/ARO-Visual-Relation and gowitheflow/ARO-COCO-order have them.

    The shuffled captions of the two order tasks are taken as they are: ARO's script draws them anew without a seed, by
    a tagger that the kit does not need. `without` names relations to leave out of the mean; ARO's notebook leaves out
    those that read the same both ways. Right where the true caption scores strictly higher than all wrong ones; chance
    is 50 % with one wrong caption, 20 % with four. Intervals draw the cases of one image together.
    Raises BadInput for a missing file, image or column, broken JSON, a box without a side: nothing is scored, unless
    `on_error="skip"` leaves such cases out and counts them in `skipped`.
    """
    skipped = error_list(on_error)
    cases = load_word_order(source, image_folder, split, skipped)
    texts = [text for case in cases for text in (case.caption, *case.wrong)]
    encoded = encode_once(embedder, [case.image for case in cases], texts, batch_size, cache)
    data = data_fingerprint(["word_order", encoded.data, *(f"{case.subset}/{case.key}" for case in cases)])
    margins, tied, place = np.empty(len(cases)), np.empty(len(cases), dtype=bool), 0
    for number, case in enumerate(cases):
        options = encoded.texts[place : place + 1 + len(case.wrong)]
        place += len(options)
        scores = dots(np.broadcast_to(encoded.images[number], options.shape), options)
        found = choice(scores[:1], scores[None, 1:])
        margins[number], tied[number] = found.margin[0], found.tied[0]
    scored = tuple(replace(case, margin=float(margin)) for case, margin in zip(cases, margins, strict=True))
    return _result(scored, tied, _image_numbers(scored), frozenset(without), seed, data, tuple(skipped or ()))


def _image_numbers(cases: tuple[WordOrderCase, ...]) -> list[int]:
    """Which image a case is cut from: boxes of one image are not independent."""
    whole = [case.image.image if isinstance(case.image, Crop) else case.image for case in cases]
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(image_key(image), len(numbers)) for image in whole]


def _result(
    cases: tuple[WordOrderCase, ...],
    tied: np.ndarray,
    images: list[int],
    without: frozenset[str],
    seed: int,
    data: str,
    skipped: tuple[str, ...],
) -> WordOrderResult:
    accuracy: dict[str, Score] = {}
    macro: dict[str, Score] = {}
    breakdown: dict[str, dict[str, Score]] = {}
    for subset in dict.fromkeys(case.subset for case in cases):
        places = [place for place, case in enumerate(cases) if case.subset == subset]
        inside, groups = [cases[place] for place in places], [images[place] for place in places]
        chance = 100.0 * float(np.mean([1 / (1 + len(case.wrong)) for case in inside]))
        right = np.array([case.margin > 0 for case in inside])
        accuracy[subset] = score(right, chance, tied[places], groups=groups, seed=seed)
        found = _by_category(inside, groups, without, LEAST.get(subset, 1), chance, seed)
        if found:
            macro[subset] = found.pop(MEAN)
            breakdown[subset] = found
    return WordOrderResult(accuracy, macro, breakdown, len(cases), int(tied.sum()), cases, data, skipped)


def _by_category(
    cases: list[WordOrderCase], images: list[int], without: frozenset[str], least: int, chance: float, seed: int
) -> dict[str, Score]:
    """A Score for each relation or pair of attributes that counts, and for their mean; {} where there is none."""
    counts = Counter(case.category for case in cases if case.category and case.category not in without)
    kept = sorted(name for name, n in counts.items() if n >= least)
    if not kept:
        return {}
    inside = [(case, image) for case, image in zip(cases, images, strict=True) if case.category in kept]
    return category_scores(
        ChoiceScores(margin=np.array([case.margin for case, _ in inside])),
        [case.category for case, _ in inside],
        [image for _, image in inside],
        dict.fromkeys(kept, chance),
        {MEAN: kept},
        seed,
    )


def load_word_order(
    source: str | Path | datasets.Dataset,
    image_folder: str | Path | None = None,
    split: str = "test",
    skipped: list[str] | None = None,
) -> list[WordOrderCase]:
    """Read and check all cases, as `evaluate_word_order` takes them; none is scored yet.

    With a list `skipped`, refused cases are noted there and the others returned.
    """
    if is_hub_id(source):
        subset = str(source).rpartition("/")[2].removeprefix("ARO-").lower().replace("-", "_")
        readers = _from_dataset(hub_dataset(str(source), split), subset)
    elif isinstance(source, str | Path):
        readers = _from_files(Path(source), image_folder)
    else:
        readers = _from_dataset(pick_split(source, split), "accuracy")
    cases: list[WordOrderCase] = []
    checked: set[Any] = set()
    for where, read in readers:
        with collect_errors(skipped):
            case = read()
            whole = case.image.image if isinstance(case.image, Crop) else case.image
            if (key := image_key(whole)) not in checked:
                check_image(whole, where)
            checked.add(key)
            cases.append(case)
    if not cases:
        raise BadInput(f"{source}: no word-order case in it{': ' + skipped[0] if skipped else ''}")
    return cases


def _from_files(source: Path, image_folder: str | Path | None) -> Iterator[tuple[str, Callable[[], WordOrderCase]]]:
    paths = [source] if source.suffix == ".json" else [source / name for name in FILES if (source / name).is_file()]
    if not paths or paths[0].name not in FILES:
        raise BadInput(f"{source} is none of, and holds none of, {', '.join(FILES)}; give ARO's files or their folder")
    images = images_of(paths[0].parent, image_folder, "the folder that the files' image names start from")
    for path in paths:
        entries = read_json(path)
        if not isinstance(entries, list):
            raise BadInput(f"{path}: a JSON {type(entries).__name__}; needed is a list of test cases")
        subset = FILES[path.name]
        of_entry = _genome_case if subset in ("relation", "attribution") else _order_case
        for index, entry in enumerate(entries):
            where = f"{path.name}, entry {index}"
            yield where, partial(of_entry, entry, where, subset, str(index), images)


def _genome_case(entry: Any, where: str, subset: str, key: str, images: Path) -> WordOrderCase:
    entry = entry_with(entry, ("image_path", "true_caption", "false_caption", *BOX), where)
    box = [entry[name] for name in BOX]
    if not all(isinstance(side, int | float) for side in box) or box[2] <= 0 or box[3] <= 0:
        raise BadInput(f"{where}: the box {dict(zip(BOX, box, strict=True))} has no width or height; correct it")
    left, top, width, height = (int(side) for side in box)
    image = Crop(path_inside(images, entry["image_path"], where, "image_path"), (left, top, left + width, top + height))
    texts = _texts([entry["true_caption"], entry["false_caption"]], where)
    return WordOrderCase(subset, key, image, texts[0], texts[1:], _category(entry))


def _category(entry: dict[str, Any]) -> str:
    attributes = entry.get("attributes")
    return "_".join(map(str, attributes)) if isinstance(attributes, list) else str(entry.get("relation_name") or "")


def _order_case(entry: Any, where: str, subset: str, key: str, images: Path) -> WordOrderCase:
    entry = entry_with(entry, ("image", "caption_options"), where)
    image = path_inside(images, entry["image"], where, "image")
    texts = _texts(entry["caption_options"], where)
    return WordOrderCase(subset, key, image, texts[0], texts[1:])


def _from_dataset(dataset: datasets.Dataset, subset: str) -> Iterator[tuple[str, Callable[[], WordOrderCase]]]:
    columns = dataset.column_names
    image = next((name for name in IMAGE_COLUMNS if name in columns), None)
    true = next((name for name in TRUE_COLUMNS if name in columns), None)
    wrong = [name for name in columns if name == "false_caption" or name.startswith("hard_text_")]
    if image is None or true is None or not wrong:
        raise BadInput(
            f"the dataset has the columns {', '.join(columns)}; needed are image, true_caption and false_caption, or "
            "images, correct_caption and hard_text_1, …: rename them so"
        )

    def read(row: dict[str, Any], where: str, key: str) -> WordOrderCase:
        texts = _texts([row[name] for name in (true, *wrong)], where)
        return WordOrderCase(subset, key, row[image], texts[0], texts[1:], _category(row))

    for index, row in enumerate(rows_undecoded(dataset, [image])):
        where = f"dataset row {index}"
        yield where, partial(read, row, where, str(index))


def _texts(options: Any, where: str) -> tuple[str, ...]:
    if not isinstance(options, list) or len(options) < 2:
        raise BadInput(f"{where}: {options!r} is no list of a true caption and at least one wrong one")
    return tuple(clean_caption(text, "caption", where) for text in options)
