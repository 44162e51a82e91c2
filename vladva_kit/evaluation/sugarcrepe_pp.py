"""SugarCrepe++: a picture, two true captions in different words, and a false one (Dumpala et al. 2024, 2406.11171)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

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
from vladva_kit.evaluation.hub_data import hub_file, is_hub_id
from vladva_kit.evaluation.metrics import ChoiceScores, sugarcrepe_pp_itt, sugarcrepe_pp_tot
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.evaluation.sugarcrepe import COCO_IMAGES
from vladva_kit.models.images import BadInput

CATEGORIES = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")
TEXTS = ("caption", "caption2", "negative_caption")
NEEDED = ("id", "filename", *TEXTS)
CHANCE = 100 / 3


@dataclass(frozen=True)
class SugarCrepePPCase:
    """One case; `itt` and `tot` are by how much the closer of the two comparisons of each task is won."""

    category: str
    id: str
    image: Path
    texts: tuple[str, str, str]  # two true captions, and the false one
    itt: float = 0.0
    tot: float = 0.0


@dataclass(frozen=True)
class SugarCrepePPResult:
    """Accuracy by image and text (`itt`), and by text alone (`tot`): of each category, "macro" and "micro"."""

    itt: dict[str, Score]
    tot: dict[str, Score]
    n: int
    ties: int
    cases: tuple[SugarCrepePPCase, ...] = field(repr=False)
    data: str = ""  # fingerprint of the cases scored
    skipped: tuple[str, ...] = ()  # why a case was left out, where that was asked for

    def margins(self) -> Iterator[CaseScore]:
        """Each case twice: by image and text, and by text alone."""
        for case in self.cases:
            for task in ("itt", "tot"):
                margin, key = getattr(case, task), f"{case.category}/{case.id}"
                texts = case.texts[0], case.texts[2]
                yield CaseScore(task, key, case.category, case.image.name, *texts, margin, margin > 0)

    def worst(self, k: int = 5) -> list[SugarCrepePPCase]:
        """The `k` cases with the lowest margin by image and text, worst first."""
        return sorted(self.cases, key=lambda case: case.itt)[:k]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts for JSON; an image is its file's name."""
        return {
            "itt": {name: asdict(one) for name, one in self.itt.items()},
            "tot": {name: asdict(one) for name, one in self.tot.items()},
            "n": self.n,
            "ties": self.ties,
            "data": self.data,
            "skipped": list(self.skipped),
            "cases": [asdict(case) | {"image": case.image.name} for case in self.cases],
        }


def evaluate_sugarcrepe_pp(
    embedder: ImageTextEncoder,
    source: str | Path,
    image_folder: str | Path | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> SugarCrepePPResult:
    """SugarCrepe++ by its official rule: `evaluate_sugarcrepe_pp(embedder, "scpp/data", "val2017").itt["macro"]`.

    `source` is a folder with the five official JSON lists (`data/` of Sri-Harsha/scpp), or the hub id that has them,
    Aman-J/SugarCrepe_pp; the images lie in `<source>/images`, or in `image_folder`, for which COCO's val2017 is given.
    ITT: both true captions score strictly higher with the image than the false one. TOT: the two true captions are
    strictly closer to each other than either is to the false one. A tie is wrong, and counted; chance is 33.3 %.
    `cache` is a folder that keeps embeddings, see `encode_once`. Intervals draw the cases of one image together.
    Raises BadInput for a missing file or image, other keys, broken JSON, an id that occurs twice: nothing is scored,
    unless `on_error="skip"` leaves such cases out and counts them in `skipped`; a broken file is refused even then.
    """
    skipped = error_list(on_error)
    cases = load_sugarcrepe_pp(source, image_folder, skipped)
    texts = [text for case in cases for text in case.texts]
    encoded = encode_once(embedder, [case.image for case in cases], texts, batch_size, cache)
    first, second, false = (encoded.texts[place::3] for place in range(3))
    itt = sugarcrepe_pp_itt(*(dots(encoded.images, captions) for captions in (first, second, false)))
    tot = sugarcrepe_pp_tot(dots(first, second), dots(first, false), dots(second, false))
    groups = encoded.image_numbers.tolist()
    return SugarCrepePPResult(
        itt=_scores(itt, cases, groups, seed),
        tot=_scores(tot, cases, groups, seed),
        n=len(cases),
        ties=int((itt.tied | tot.tied).sum()),
        cases=tuple(
            replace(case, itt=float(with_image), tot=float(by_text))
            for case, with_image, by_text in zip(cases, itt.margin, tot.margin, strict=True)
        ),
        data=data_fingerprint(["sugarcrepe_pp", encoded.data, *(f"{case.category}/{case.id}" for case in cases)]),
        skipped=tuple(skipped or ()),
    )


def _scores(found: ChoiceScores, cases: list[SugarCrepePPCase], groups: list[int], seed: int) -> dict[str, Score]:
    chance = dict.fromkeys(CATEGORIES, CHANCE)
    scores = category_scores(found, [case.category for case in cases], groups, chance, {"macro": CATEGORIES}, seed)
    return scores | {"micro": score(found.correct, CHANCE, found.tied, groups=groups, seed=seed)}


def load_sugarcrepe_pp(
    source: str | Path, image_folder: str | Path | None = None, skipped: list[str] | None = None
) -> list[SugarCrepePPCase]:
    """Read and check the cases of all five files, as `evaluate_sugarcrepe_pp` takes them; none is scored yet.

    With a list `skipped`, refused cases are noted there and the others returned.
    """
    images = images_of(Path(source), image_folder, COCO_IMAGES)
    cases: list[SugarCrepePPCase] = []
    checked: set[Path] = set()
    for category, path in _files(source).items():
        seen: set[str] = set()
        for index, entry in enumerate(_entries(path)):
            where = f"{path.name}, entry {index}"
            with collect_errors(skipped):
                case = _case(entry, where, category, images)
                if case.id in seen:
                    raise BadInput(f"{where}: the id {case.id} stands in this file already; ids must differ")
                seen.add(case.id)
                if case.image not in checked:
                    check_image(case.image, where)
                checked.add(case.image)
                cases.append(case)
    lacking = sorted(set(CATEGORIES) - {case.category for case in cases})
    if lacking:
        raise BadInput(f"{source}: no case of {', '.join(lacking)} can be used{': ' + skipped[0] if skipped else ''}")
    return cases


def _files(source: str | Path) -> dict[str, Path]:
    if is_hub_id(source):
        return {name: hub_file(str(source), [f"data/{name}.json", f"{name}.json"]) for name in CATEGORIES}
    paths = {name: Path(source) / f"{name}.json" for name in CATEGORIES}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise BadInput(
            f"{source} holds no {', '.join(missing)}; all five files are needed: give 'Aman-J/SugarCrepe_pp', or "
            "git clone https://github.com/Sri-Harsha/scpp and give its folder data"
        )
    return paths


def _entries(path: Path) -> list[Any]:
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{path}: a JSON {type(entries).__name__} of nothing usable; needed is a list of entries")
    return entries


def _case(entry: Any, where: str, category: str, images: Path) -> SugarCrepePPCase:
    entry = entry_with(entry, NEEDED, where)
    image = path_inside(images, entry["filename"], where, "filename")
    texts = tuple(clean_caption(entry[name], name, where) for name in TEXTS)
    return SugarCrepePPCase(category, str(entry["id"]), image, texts)
