"""Read the cases of a benchmark, and record their scores: what all benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from vladva_kit.data.validation import check_image, collect_errors, read_json
from vladva_kit.evaluation.encoding import data_fingerprint
from vladva_kit.models.images import BadInput, Crop, check_box

Case = TypeVar("Case")  # a dataclass of a benchmark, with a unique `id` and `image` or `images`


@dataclass(frozen=True, kw_only=True)
class Result:
    """Fields that all benchmark results share."""

    n: int
    ties: int = 0  # cases in which a right and a wrong answer score the same; they count as wrong
    cases: tuple[Any, ...] = field(default=(), repr=False)  # with the scores of each
    data: str = ""  # fingerprint of the images and texts: only results on equal data are compared
    skipped: tuple[str, ...] = ()  # why cases were left out, with on_error="skip"

    def worst(self, k: int = 5) -> list[Any]:
        """Return the `k` cases with the lowest margin, worst first."""
        return sorted(self.cases, key=lambda case: case.margin)[:k]

    def per_case(self) -> Iterable[CaseScore]:
        """Return each case under each of its scores; `cases` of generated answers have this form already."""
        return self.cases

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values: everything that the repr shows, and the cases without their images."""
        return plain(self) | {"cases": [plain(case) | {"margin": plain(case.margin)} for case in self.cases]}


@dataclass(frozen=True)
class CaseScore:
    """One case under one score: right if `margin` is above zero, a tie if it is zero.

    A generated answer has no alternative to compare with: its margin is its value, or 1 and 0.
    """

    score: str  # "group", "R@1 text to image", …
    case: str  # the case's key, the same for every model
    category: str  # the tag or category by which failures are grouped
    image: str  # cases with the same image are not independent
    caption: str
    other: str  # the wrong caption or class it is compared with, or the generated answer
    margin: float
    correct: bool | None  # None for an answer that has a value instead of being right or wrong
    value: float | None = None  # that value: VQA accuracy (0–1), a caption's CIDEr
    tags: tuple[str, ...] = ()  # all the benchmark's labels of the case: "Relation", "Symbolic", "same words", …

    @property
    def key(self) -> tuple[str, str]:
        return self.score, self.case

    @property
    def counts(self) -> float:
        """The case's contribution to the mean: 1, 0, or its value."""
        return float(bool(self.correct)) if self.value is None else self.value


def plain(value: Any) -> Any:
    """Convert to JSON values: a dataclass to the fields of its repr, a path to its file name, infinity to None."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value) if one.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value.name if isinstance(value, Path) else value


def result_fields(
    name: str, cases: Sequence[Any], contents: Iterable[str], skipped: list[str] | None, tied: Any, /, **scores: Any
) -> dict[str, Any]:
    """Return the fields of `Result` for the benchmark `name`; `scores` become attributes of the cases.

    result_fields("sugarcrepe", cases, [encoded.data], skipped, margins.tied, positive=positive, negative=negative)
    """
    rows = [values.tolist() if isinstance(values, np.ndarray) else values for values in scores.values()]
    scored = [dict(zip(scores, row, strict=True)) for row in zip(*rows, strict=True)]
    return {
        "n": len(cases),
        "ties": int(np.sum(tied)),
        "cases": tuple(replace(case, **values) for case, values in zip(cases, scored, strict=True)),
        "data": data_fingerprint([name, *contents, *(case.id for case in cases)]),
        "skipped": tuple(skipped or ()),
    }


def read_cases(
    entries: Iterable[tuple[str, Any]],
    read: Callable[[Any, str], Case],
    source: Any,
    skipped: list[str] | None,
    categories: Sequence[str] = (),
) -> list[Case]:
    """Read each entry to a case, and check that their ids are unique and their images decode.

        read_cases(json_entries(path), read_entry, path, skipped=None)

    `entries` holds (location, entry): `read(entry, location)` returns the case, and the location starts error messages.
    With a list `skipped`, bad entries are recorded there and left out; otherwise the first one raises.
    Raises BadInput also if no case remains, or none of one of `categories`.
    """
    cases: list[Any] = []
    locations: dict[str, str] = {}
    sizes: dict[Path, tuple[int, int]] = {}  # of the files checked so far
    for location, entry in entries:
        with collect_errors(skipped):
            case: Any = read(entry, location)
            if case.id in locations:
                raise BadInput(f"{location}: {case.id} is also the id of {locations[case.id]}; ids must be unique")
            for image in case.images if hasattr(case, "images") else [case.image]:
                _check_once(image, location, sizes)
            locations[case.id] = location
            cases.append(case)
    empty = [category for category in categories if category not in {case.category for case in cases}]
    if empty or not cases:
        which = f" of {', '.join(empty)}" if empty else ""
        raise BadInput(f"{source}: no usable case{which}{f': {skipped[0]}' if skipped else ''}")
    return cases


def _check_once(image: Any, location: str, sizes: dict[Path, tuple[int, int]]) -> None:
    """Check an image unless its file was checked before, and each crop's box."""
    file = image.image if isinstance(image, Crop) else image
    size = sizes[file] if isinstance(file, Path) and file in sizes else check_image(file, location)
    if isinstance(file, Path):
        sizes[file] = size
    if isinstance(image, Crop):
        try:
            check_box(image.box, size)
        except BadInput as error:
            raise BadInput(f"{location}: {error}") from error


def json_entries(path: Path, kind: type = list) -> Iterator[tuple[str, tuple[str, str, Any]]]:
    """Yield (location, (file stem, key, entry)) for each entry of a JSON list, or of an object with kind=dict.

        next(json_entries(Path("swap_obj.json"), dict))    # ("swap_obj.json, entry 0", ("swap_obj", "0", {…}))

    Raises BadInput for invalid JSON, another type, or no entries.
    """
    content = read_json(path)
    if not isinstance(content, kind) or not content:
        found = f"{'a' if content else 'an empty'} JSON {type(content).__name__}"
        needed = "an object with the entries by index" if kind is dict else "a list of entries"
        raise BadInput(f"{path}: found {found}; {needed} is needed")
    for key, entry in content.items() if isinstance(content, dict) else enumerate(cast(list, content)):
        yield f"{path.name}, entry {key}", (path.stem, str(key), entry)
