"""SugarCrepe: a picture, its caption, and a caption made wrong in one of seven ways (Hsieh et al. 2023, 2306.14610)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    collect_errors,
    entry_with,
    error_list,
    images_of,
    path_inside,
    read_json,
)
from vladva_kit.evaluation.bootstrap import Score, category_scores, score
from vladva_kit.evaluation.encoding import ImageTextEncoder, data_fingerprint, dots, encode_once
from vladva_kit.evaluation.metrics import ChoiceScores, sugarcrepe
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.models.images import BadInput

CATEGORIES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
NEEDED = ("filename", "caption", "negative_caption")
CHANCE = 50.0
COCO_IMAGES = "which is COCO's val2017 for the official files: unpack http://images.cocodataset.org/zips/val2017.zip"


@dataclass(frozen=True)
class SugarCrepeCase:
    """One case and what the encoder made of it; right where `margin`, positive minus negative, is above zero."""

    category: str
    key: str
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
        """Whether both captions hold the same words, in another order; an order-blind encoder ties there."""
        return words_of(self.caption) == words_of(self.negative_caption)


def words_of(caption: str) -> list[str]:
    """The words of a caption in alphabetical order, in small letters, without punctuation: what order leaves alone."""
    return sorted(re.findall(r"[\w']+", caption.lower()))


@dataclass(frozen=True)
class SugarCrepeResult:
    """Accuracy of the seven categories, of replace, swap and add (mean of their categories), and of all together.

    `macro` counts each category the same (the VladVA paper), `micro` each case (the SugarCrepe paper, MIEB).
    `word_order` has the accuracy on the cases whose captions hold the same words (572 of the official ones) and on the
    others.
    """

    categories: dict[str, Score]
    groups: dict[str, Score]
    macro: Score
    micro: Score
    n: int
    ties: int
    cases: tuple[SugarCrepeCase, ...] = field(repr=False)
    word_order: dict[str, Score] = field(default_factory=dict)  # "same words", "other words"
    data: str = ""  # fingerprint of the cases scored
    skipped: tuple[str, ...] = ()  # why a case was left out, where that was asked for

    def margins(self) -> Iterator[CaseScore]:
        """Each case once, by its category."""
        for case in self.cases:
            texts = case.caption, case.negative_caption
            told = "accuracy", f"{case.category}/{case.key}", case.category, case.image.name, *texts
            tags = case.category, "same words" if case.same_words else "other words"
            yield CaseScore(*told, case.margin, case.margin > 0, tags=tags)

    def worst(self, k: int = 5) -> list[SugarCrepeCase]:
        """The `k` cases with the lowest margin, worst first."""
        return sorted(self.cases, key=lambda case: case.margin)[:k]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts for JSON; an image is its file's name."""
        return {
            "categories": {name: asdict(one) for name, one in self.categories.items()},
            "groups": {name: asdict(one) for name, one in self.groups.items()},
            "macro": asdict(self.macro),
            "micro": asdict(self.micro),
            "word_order": {name: asdict(one) for name, one in self.word_order.items()},
            "n": self.n,
            "ties": self.ties,
            "data": self.data,
            "skipped": list(self.skipped),
            "cases": [asdict(case) | {"image": case.image.name, "margin": case.margin} for case in self.cases],
        }


def evaluate_sugarcrepe(
    embedder: ImageTextEncoder,
    source: str | Path,
    image_folder: str | Path | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> SugarCrepeResult:
    """SugarCrepe by its official rule: `evaluate_sugarcrepe(embedder, vk.sample("sugarcrepe_mini")).macro.percent`.

    `source` is a folder with the seven official JSON files (`data/` of RAIVNLab/sugar-crepe); the images lie in
    `<source>/images`, or in `image_folder`, for which COCO's val2017 is given. Each image and caption is encoded once,
    `batch_size` at a time; `cache` is a folder that keeps embeddings, see `encode_once`. Right where the true caption
    scores strictly higher; a tie is wrong, and counted; chance is 50 %. Intervals draw the cases of one image together.
    Raises BadInput for a missing file or image, other keys, broken JSON, an index that occurs twice: nothing is scored,
    unless `on_error="skip"` leaves such cases out and counts them in `skipped`; a broken file is refused even then.
    """
    skipped = error_list(on_error)
    cases = load_sugarcrepe(source, image_folder, skipped)
    texts = [text for case in cases for text in (case.caption, case.negative_caption)]
    encoded = encode_once(embedder, [case.image for case in cases], texts, batch_size, cache)
    positive, negative = dots(encoded.images, encoded.texts[0::2]), dots(encoded.images, encoded.texts[1::2])
    data = data_fingerprint(["sugarcrepe", encoded.data, *(f"{case.category}/{case.key}" for case in cases)])
    return _result(cases, positive, negative, encoded.image_numbers, seed, data, tuple(skipped or ()))


def load_sugarcrepe(
    source: str | Path, image_folder: str | Path | None = None, skipped: list[str] | None = None
) -> list[SugarCrepeCase]:
    """Read and check the cases of all seven files, as `evaluate_sugarcrepe` takes them; none is scored yet.

    With a list `skipped`, refused cases are noted there and the others returned.
    """
    source = Path(source)
    missing = [name for name in CATEGORIES if not (source / f"{name}.json").is_file()]
    if missing:
        raise BadInput(
            f"{source} holds no {', '.join(f'{name}.json' for name in missing)}; all seven files are needed: "
            "git clone https://github.com/RAIVNLab/sugar-crepe and give its folder data"
        )
    images = images_of(source, image_folder, COCO_IMAGES)
    cases: list[SugarCrepeCase] = []
    checked: set[Path] = set()
    for category in CATEGORIES:
        path = source / f"{category}.json"
        for key, entry in _entries(path).items():
            where = f"{path.name}, entry {key}"
            with collect_errors(skipped):
                case = _case(entry, where, category, key, images)
                if case.image not in checked:
                    check_image(case.image, where)
                checked.add(case.image)
                cases.append(case)
    lacking = sorted(set(CATEGORIES) - {case.category for case in cases})
    if lacking:
        raise BadInput(f"{source}: no case of {', '.join(lacking)} can be used{': ' + skipped[0] if skipped else ''}")
    return cases


def _entries(path: Path) -> dict[str, Any]:
    entries = read_json(path)
    if not isinstance(entries, dict) or not entries:
        raise BadInput(f"{path}: a JSON {type(entries).__name__} of nothing usable; needed are entries by their index")
    return entries


def _case(entry: Any, where: str, category: str, key: str, images: Path) -> SugarCrepeCase:
    entry = entry_with(entry, NEEDED, where)
    image = path_inside(images, entry["filename"], where, "filename")
    texts = {name: clean_caption(entry[name], name, where) for name in ("caption", "negative_caption")}
    return SugarCrepeCase(category, key, image, **texts)


def _result(
    cases: list[SugarCrepeCase],
    positive: np.ndarray,
    negative: np.ndarray,
    image: np.ndarray,
    seed: int,
    data: str,
    skipped: tuple[str, ...],
) -> SugarCrepeResult:
    found = sugarcrepe(positive, negative)
    kinds = ("replace", "swap", "add")
    means = {kind: [name for name in CATEGORIES if name.startswith(kind)] for kind in kinds} | {"macro": CATEGORIES}
    of_category, groups = [case.category for case in cases], image.tolist()
    scores = category_scores(found, of_category, groups, dict.fromkeys(CATEGORIES, CHANCE), means, seed)
    return SugarCrepeResult(
        categories={name: scores[name] for name in CATEGORIES},
        groups={kind: scores[kind] for kind in kinds},
        macro=scores["macro"],
        micro=score(found.correct, CHANCE, found.tied, groups=groups, seed=seed),
        n=len(cases),
        ties=found.ties,
        cases=tuple(
            replace(case, positive=float(p), negative=float(q))
            for case, p, q in zip(cases, positive, negative, strict=True)
        ),
        word_order=_by_word_order(found, cases, image, seed),
        data=data,
        skipped=skipped,
    )


def _by_word_order(found: ChoiceScores, cases: list[SugarCrepeCase], image: np.ndarray, seed: int) -> dict[str, Score]:
    same = np.array([case.same_words for case in cases])
    parts = {"same words": same, "other words": ~same}
    return {
        name: score(found.correct[chosen], CHANCE, found.tied[chosen], groups=image[chosen].tolist(), seed=seed)
        for name, chosen in parts.items()
        if chosen.any()
    }
