"""Reduce evaluation results to one bit per case, so that models can be compared case by case later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vladva_kit.evaluation import RetrievalResult, SugarCrepePPResult, SugarCrepeResult, WinogroundResult
from vladva_kit.evaluation.generation import GenerationResult


@dataclass(frozen=True)
class Measure:
    """Which cases are correct, and their images: the bootstrap keeps the cases of an image together.

    correct: "0110…", one digit per case; images: the image of each case, or, as a number k, each k consecutive cases
    share one; chance: in percent, None for a score without a chance level.
    """

    correct: str
    images: int | tuple[str, ...]
    chance: float | None
    ties: int

    @staticmethod
    def of(
        correct: Sequence[bool] | np.ndarray, chance: float | None, ties: int = 0, images: int | Sequence[str] = 1
    ) -> Measure:
        """Build a measure from one bool per case: `Measure.of([True, False], 50.0).correct == "10"`."""
        images = images if isinstance(images, int) else tuple(images)
        return Measure("".join("01"[bool(one)] for one in correct), images, chance, int(ties))


def correct_cases(measure: Mapping[str, Any]) -> np.ndarray:
    """Return a measure's cases as (n,) bool: `correct_cases({"correct": "10"})` -> `[True, False]`."""
    return np.frombuffer(measure["correct"].encode(), dtype=np.uint8) == ord("1")


def images_of(measure: Mapping[str, Any]) -> list[Any]:
    """Return the image of each case: `images_of({"correct": "100", "images": 2})` -> `[0, 0, 1]`."""
    images = measure["images"]
    return [case // images for case in range(len(measure["correct"]))] if isinstance(images, int) else list(images)


def measures_of(results: Mapping[str, Any]) -> dict[str, Measure]:
    """Return the measures of evaluation results, which are keyed by "benchmark/style".

    measures_of({"winoground/seen": result})["winoground/seen/group"]

    Raises TypeError for a result of an unknown type.
    """
    measures: dict[str, Measure] = {}
    for key, result in results.items():
        kind = next((kind for kind in _CONVERTERS if isinstance(result, kind)), None)
        if kind is None:
            raise TypeError(f"{key} is of type {type(result).__name__}: pass results of the kit's evaluations")
        measures |= {f"{key}/{name}": measure for name, measure in _CONVERTERS[kind](result).items()}
    return measures


def _retrieval(result: RetrievalResult) -> dict[str, Measure]:
    per_image, rest = divmod(result.n_captions, result.n_images)
    if rest:
        raise ValueError(f"{result.n_captions} captions of {result.n_images} images: give every image equally many")
    images, captions = result.image_to_text[1], result.text_to_image[1]
    return {
        "image_to_text": Measure.of(np.array(result.image_ranks) == 0, images.chance, images.ties),
        "text_to_image": Measure.of(np.array(result.caption_ranks) == 0, captions.chance, captions.ties, per_image),
    }


def _winoground(result: WinogroundResult) -> dict[str, Measure]:
    scores = {name: getattr(result, name) for name in ("text", "image", "group")}
    return {
        name: Measure.of([getattr(case, f"{name}_margin") > 0 for case in result.cases], score.chance, score.ties)
        for name, score in scores.items()
    }


def _sugarcrepe(result: SugarCrepeResult) -> dict[str, Measure]:
    cases = {name: [case for case in result.cases if case.category == name] for name in result.categories}
    return {
        name: Measure.of(
            [case.margin > 0 for case in cases[name]],
            score.chance,
            score.ties,
            [case.image.stem for case in cases[name]],
        )
        for name, score in result.categories.items()
    }


def _generation(result: GenerationResult) -> dict[str, Measure]:
    return {name: Measure.of(correct, getattr(result, name).chance) for name, correct in result.right.items()}


def _sugarcrepe_pp(result: SugarCrepePPResult) -> dict[str, Measure]:
    """Hard positives: both true captions, which name the same things in opposite order, beat the false one."""
    chance = result.itt["macro"].chance
    return {"itt": Measure.of([case.itt > 0 for case in result.cases], chance, 0, [c.image.stem for c in result.cases])}


_CONVERTERS = {
    SugarCrepePPResult: _sugarcrepe_pp,
    RetrievalResult: _retrieval,
    WinogroundResult: _winoground,
    SugarCrepeResult: _sugarcrepe,
    GenerationResult: _generation,
}
