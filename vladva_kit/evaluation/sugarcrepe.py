"""SugarCrepe: a picture, its caption, and a caption made wrong in one of seven ways (Hsieh et al. 2023, 2306.14610)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vladva_kit.evaluation.encoding import EncodesPairs, dots, embed_images, embed_texts, image_key, number_unique
from vladva_kit.evaluation.significance import Score, bootstrap_means, interval_of, score
from vladva_kit.inputs import BadInput, check_image, clean_caption, path_inside
from vladva_kit.metrics import macro, sugarcrepe

CATEGORIES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
NEEDED = ("filename", "caption", "negative_caption")
CHANCE = 50.0


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


@dataclass(frozen=True)
class SugarCrepeResult:
    """Accuracy of the seven categories, of replace, swap and add (mean of their categories), and of all together.

    `macro` counts each category the same (the VladVA paper), `micro` each case (the SugarCrepe paper, MIEB).
    """

    categories: dict[str, Score]
    groups: dict[str, Score]
    macro: Score
    micro: Score
    n: int
    ties: int
    cases: tuple[SugarCrepeCase, ...] = field(repr=False)

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
            "n": self.n,
            "ties": self.ties,
            "cases": [asdict(case) | {"image": case.image.name, "margin": case.margin} for case in self.cases],
        }


def evaluate_sugarcrepe(
    embedder: EncodesPairs,
    source: str | Path,
    image_folder: str | Path | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> SugarCrepeResult:
    """SugarCrepe by its official rule: `evaluate_sugarcrepe(embedder, vk.sample("sugarcrepe_mini")).macro.percent`.

    `source` is a folder with the seven official JSON files (`data/` of RAIVNLab/sugar-crepe); the images lie in
    `<source>/images`, or in `image_folder`, for which COCO's val2017 is given. Each image and caption is encoded once,
    `batch_size` at a time. Right where the true caption scores strictly higher; a tie is wrong, and counted; chance is
    50 %. Intervals draw the cases of one image together.
    Raises BadInput for a missing file or image, other keys, broken JSON, an index that occurs twice: nothing is scored.
    """
    cases = load_sugarcrepe(source, image_folder)
    first_image, image_index = number_unique([image_key(case.image) for case in cases])
    texts = [text for case in cases for text in (case.caption, case.negative_caption)]
    first_text, text_index = number_unique(texts)
    images = embed_images(embedder, [cases[place].image for place in first_image], batch_size)[image_index]
    captions = embed_texts(embedder, [texts[place] for place in first_text], batch_size)[text_index]
    positive, negative = dots(images, captions[0::2]), dots(images, captions[1::2])
    return _result(cases, positive, negative, image_index, seed)


def load_sugarcrepe(source: str | Path, image_folder: str | Path | None = None) -> list[SugarCrepeCase]:
    """Read and check the cases of all seven files, as `evaluate_sugarcrepe` takes them; none is scored yet."""
    source = Path(source)
    images = Path(image_folder) if image_folder is not None else source / "images"
    missing = [name for name in CATEGORIES if not (source / f"{name}.json").is_file()]
    if missing:
        raise BadInput(f"{source} holds no {', '.join(f'{name}.json' for name in missing)}; all seven files are needed")
    if not images.is_dir():
        raise BadInput(f"{images} is no folder; give image_folder=, which is COCO's val2017 for the official files")
    cases = [case for name in CATEGORIES for case in _category(source / f"{name}.json", name, images)]
    where = {case.image: f"{case.category}.json, entry {case.key}" for case in reversed(cases)}
    for image, place in where.items():
        check_image(image, place)
    return cases


def _category(path: Path, category: str, images: Path) -> list[SugarCrepeCase]:
    try:
        entries = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_no_repeats)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({error}); fetch the file again") from error
    if not isinstance(entries, dict) or not entries:
        raise BadInput(f"{path}: a JSON {type(entries).__name__} of nothing usable; needed are entries by their index")
    return [_case(entry, f"{path.name}, entry {key}", category, key, images) for key, entry in entries.items()]


def _no_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in items]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise BadInput(f"{', '.join(twice)} occurs twice; an index must stand for one entry")
    return dict(items)


def _case(entry: Any, where: str, category: str, key: str, images: Path) -> SugarCrepeCase:
    if not isinstance(entry, dict) or not set(NEEDED) <= set(entry):
        found = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise BadInput(f"{where}: found {found or 'nothing'}; needed are {', '.join(NEEDED)}")
    image = path_inside(images, entry["filename"], where, "filename")
    texts = {name: clean_caption(entry[name], name, where) for name in ("caption", "negative_caption")}
    return SugarCrepeCase(category, key, image, **texts)


def _result(
    cases: list[SugarCrepeCase], positive: np.ndarray, negative: np.ndarray, image: np.ndarray, seed: int
) -> SugarCrepeResult:
    scores = sugarcrepe(positive, negative)
    of_category = np.array([case.category for case in cases])
    parts = {name: np.flatnonzero(of_category == name) for name in CATEGORIES}
    correct = {name: scores.correct[places] for name, places in parts.items()}
    tied = {name: scores.tied[places] for name, places in parts.items()}
    groups = {name: image[places].tolist() for name, places in parts.items()}
    # category by category, each with a stream of its own, so that their resamples are independent in the macro mean
    means = {
        name: bootstrap_means(correct[name], seed=seed + place, groups=groups[name])
        for place, name in enumerate(CATEGORIES)
    }

    def mean_of(names: Iterable[str]) -> Score:
        names = list(names)
        low, high = interval_of(np.mean([means[name] for name in names], axis=0))
        n, ties = sum(len(correct[name]) for name in names), sum(int(tied[name].sum()) for name in names)
        return Score(macro({name: correct[name] for name in names}), low, high, CHANCE, n, ties)

    def kind(start: str) -> Score:
        return mean_of(name for name in CATEGORIES if name.startswith(start))

    return SugarCrepeResult(
        categories={name: mean_of([name]) for name in CATEGORIES},
        groups={start: kind(start) for start in ("replace", "swap", "add")},
        macro=mean_of(CATEGORIES),
        micro=score(scores.correct, CHANCE, scores.tied, groups=image.tolist(), seed=seed),
        n=len(cases),
        ties=scores.ties,
        cases=tuple(
            replace(case, positive=float(p), negative=float(q))
            for case, p, q in zip(cases, positive, negative, strict=True)
        ),
    )
