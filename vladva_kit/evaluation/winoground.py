"""Winoground: two pictures, two captions of the same words; which belongs to which? (Thrush et al. 2022, 2204.03162)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    collect_errors,
    error_list,
    json_line,
    numbered_lines,
    path_inside,
    pick_split,
    rows_undecoded,
)
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.encoding import ImageTextEncoder, data_fingerprint, dots, encode_once
from vladva_kit.evaluation.hub_data import is_hub_id, winoground_folder
from vladva_kit.evaluation.metrics import WinogroundScores, winoground
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

CHANCE = {"text": 25.0, "image": 25.0, "group": 100 / 6}
NEEDED = ("id", "image_0", "image_1", "caption_0", "caption_1")
TAGS = ("collapsed_tag", "tag", "secondary_tag", "num_main_preds")


@dataclass(frozen=True)
class WinogroundCase:
    """One case and what the encoder made of it; `similarities[i][c]` is that of image i with caption c."""

    id: str
    captions: tuple[str, str]
    images: tuple[Image.Image | Path | bytes, Image.Image | Path | bytes] = field(repr=False, compare=False)
    tags: dict[str, str]
    similarities: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    text_margin: float = 0.0
    image_margin: float = 0.0
    tied: bool = False

    @property
    def group_margin(self) -> float:
        return min(self.text_margin, self.image_margin)


@dataclass(frozen=True)
class WinogroundResult:
    """Text, image and group score, each by tag as well: `result.breakdown["collapsed_tag"]["Relation"]["group"]`."""

    text: Score
    image: Score
    group: Score
    n: int
    ties: int
    breakdown: dict[str, dict[str, dict[str, Score]]]
    cases: tuple[WinogroundCase, ...] = field(repr=False)
    data: str = ""  # fingerprint of the cases scored
    skipped: tuple[str, ...] = ()  # why a case was left out, where that was asked for

    def margins(self) -> Iterator[CaseScore]:
        """Each case three times: by text, image and group."""
        for case in self.cases:
            category = case.tags.get("collapsed_tag", case.tags.get("tag", ""))
            for name in CHANCE:
                margin = getattr(case, f"{name}_margin")
                told = name, case.id, category, case.id, *case.captions
                yield CaseScore(*told, margin, margin > 0, tags=tuple(dict.fromkeys(case.tags.values())))

    def worst(self, k: int = 5) -> list[WinogroundCase]:
        """The `k` cases with the lowest group margin, worst first."""
        return sorted(self.cases, key=lambda case: case.group_margin)[:k]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts for JSON; the images themselves are left out."""
        cases = [asdict(replace(case, images=())) for case in self.cases]
        for case in cases:
            del case["images"]
        scores = {name: asdict(getattr(self, name)) for name in CHANCE}
        breakdown = {
            column: {value: {name: asdict(one) for name, one in parts.items()} for value, parts in values.items()}
            for column, values in self.breakdown.items()
        }
        return {**scores, "n": self.n, "ties": self.ties, "breakdown": breakdown, "cases": cases} | {
            "data": self.data,
            "skipped": list(self.skipped),
        }


def evaluate_winoground(
    embedder: ImageTextEncoder,
    source: str | Path | datasets.Dataset,
    split: str = "test",
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> WinogroundResult:
    """Winoground by its official rule: `evaluate_winoground(embedder, vk.sample("winoground_mini")).group.percent`.

    `source` is a folder with `examples.jsonl` and `images/` (or both in its folder `data/`), as facebook/winoground
    has them, that hub id itself, or a `datasets.Dataset` with the columns id, image_0, image_1, caption_0, caption_1
    and any of the tags (of a DatasetDict, `split` is taken). Each image and caption is encoded once, `batch_size` at a
    time; `cache` is a folder that keeps embeddings, see `encode_once`.

    All comparisons are strict: a tie is wrong, and counted. Chance is 25 % (text, image) and 16.7 % (group).
    Raises BadInput for a missing column, image or caption, an id that occurs twice, a line that is not JSON: nothing
    is scored then, unless `on_error="skip"` leaves such cases out and counts them in `skipped`.
    """
    skipped = error_list(on_error)
    cases = load_winoground(source, split, skipped)
    images = [image for case in cases for image in case.images]
    captions = [caption for case in cases for caption in case.captions]
    encoded = encode_once(embedder, images, captions, batch_size, cache)
    similarities = np.empty((len(cases), 2, 2), dtype=np.float32)
    for i in range(2):
        for c in range(2):
            similarities[:, i, c] = dots(encoded.images[i::2], encoded.texts[c::2])
    data = data_fingerprint(["winoground", encoded.data, *(case.id for case in cases)])
    return _result(cases, similarities, seed, data, tuple(skipped or ()))


def load_winoground(
    source: str | Path | datasets.Dataset, split: str = "test", skipped: list[str] | None = None
) -> list[WinogroundCase]:
    """Read and check all cases of a folder or dataset, as `evaluate_winoground` takes them; none is scored yet.

    With a list `skipped`, refused cases are noted there and the others returned.
    """
    if is_hub_id(source):
        source = winoground_folder(str(source))
    rows = _from_folder(Path(source)) if isinstance(source, str | Path) else _from_dataset(pick_split(source, split))
    cases: list[WinogroundCase] = []
    seen: dict[str, str] = {}
    for where, read in rows:
        with collect_errors(skipped):
            case = _case(read(), where)
            if case.id in seen:
                raise BadInput(f"{where}: the id {case.id} is that of {seen[case.id]} too; ids must differ")
            seen[case.id] = where
            cases.append(case)
    if not cases:
        raise BadInput(f"{source}: no Winoground case in it{': ' + skipped[0] if skipped else ''}")
    return cases


def _from_folder(folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    root = next((root for root in (folder, folder / "data") if (root / "examples.jsonl").is_file()), None)
    if root is None:
        raise BadInput(
            f"{folder} holds no examples.jsonl; give the folder with Winoground's examples.jsonl and images/, or "
            "'facebook/winoground'"
        )
    images = root / "images"
    if not images.is_dir():
        raise BadInput(f"{images} is no folder; unpack Winoground's images.zip beside examples.jsonl")
    for where, raw in numbered_lines(root / "examples.jsonl"):
        yield where, partial(_from_line, raw, where, images)


def _from_line(raw: bytes, where: str, images: Path) -> dict[str, Any]:
    row = json_line(raw, where)
    _check_columns(row, where)
    return row | {key: _image_path(images, row[key], where, key) for key in ("image_0", "image_1")}


def _image_path(folder: Path, name: object, where: str, key: str) -> Path:
    path = path_inside(folder, name, where, key)
    # the official file names its images without ending ("ex_0_img_0"), and they are PNG
    return path if path.is_file() or path.suffix else path.with_name(f"{path.name}.png")


def _from_dataset(dataset: datasets.Dataset) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    _check_columns(dict.fromkeys(dataset.column_names), "the dataset")
    for index, row in enumerate(rows_undecoded(dataset, ["image_0", "image_1"])):
        yield f"dataset row {index}", partial(dict, row)


def _check_columns(row: dict[str, Any], where: str) -> None:
    missing = [name for name in NEEDED if name not in row]
    if missing:
        raise BadInput(
            f"{where}: no {', '.join(missing)} (columns: {', '.join(row) or 'none'}); "
            f"Winoground has {', '.join((*NEEDED, *TAGS))}: rename them so"
        )


def _case(row: dict[str, Any], where: str) -> WinogroundCase:
    for key in ("image_0", "image_1"):
        check_image(row[key], where)
    if row["id"] is None or isinstance(row["id"], dict | list):
        raise BadInput(f"{where}: the id is {row['id']!r}; it must be a number or text")
    tags = {name: str(row[name]).strip() for name in TAGS if row.get(name) is not None}
    return WinogroundCase(
        id=str(row["id"]),
        captions=(
            clean_caption(row["caption_0"], "caption_0", where),
            clean_caption(row["caption_1"], "caption_1", where),
        ),
        images=(row["image_0"], row["image_1"]),
        tags={name: value for name, value in tags.items() if value},
    )


def _result(
    cases: list[WinogroundCase], similarities: np.ndarray, seed: int, data: str, skipped: tuple[str, ...]
) -> WinogroundResult:
    scores = winoground(similarities)
    breakdown: dict[str, dict[str, dict[str, Score]]] = {}
    for column in TAGS:
        values = sorted({case.tags[column] for case in cases if column in case.tags})
        for value in values:
            chosen = np.array([case.tags.get(column) == value for case in cases])
            breakdown.setdefault(column, {})[value] = _scores(scores, chosen, seed)
    scored = tuple(
        replace(
            case,
            similarities=tuple(map(tuple, similarities[place].tolist())),
            text_margin=float(scores.text_margin[place]),
            image_margin=float(scores.image_margin[place]),
            tied=bool(scores.tied[place]),
        )
        for place, case in enumerate(cases)
    )
    every = _scores(scores, np.ones(len(cases), dtype=bool), seed)
    return WinogroundResult(
        **every, n=len(cases), ties=scores.ties, breakdown=breakdown, cases=scored, data=data, skipped=skipped
    )


def _scores(scores: WinogroundScores, chosen: np.ndarray, seed: int) -> dict[str, Score]:
    tied = {"text": scores.text_tied, "image": scores.image_tied, "group": scores.tied}
    return {
        name: score(getattr(scores, name)[chosen], chance, tied[name][chosen], seed=seed)
        for name, chance in CHANCE.items()
    }
