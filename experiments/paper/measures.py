"""What is counted: one bit a case, so that rows can be compared case by case long after the models are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vladva_kit.evaluation import RetrievalResult, SugarCrepeResult, WinogroundResult
from vladva_kit.evaluation.bootstrap import Score
from vladva_kit.evaluation.generation import GenerationResult


@dataclass(frozen=True)
class Measure:
    """Cases right and wrong. `together` neighbors belong to one picture and are drawn together by the bootstrap."""

    right: str  # "0110…", a digit a case
    together: int
    chance: float  # percent
    ties: int

    @staticmethod
    def of(right: Sequence[bool] | np.ndarray, chance: float, ties: int = 0, together: int = 1) -> Measure:
        """From one bool a case: Measure.of([True, False], 50.0).right == "10"."""
        return Measure("".join("01"[bool(one)] for one in right), together, float(chance), int(ties))


def cases_right(measure: Mapping[str, Any]) -> np.ndarray:
    """(n,) bool, from a measure as JSON holds it."""
    return np.frombuffer(measure["right"].encode(), dtype=np.uint8) == ord("1")


def measures_of(judged: Mapping[str, Any]) -> dict[str, Measure]:
    """The measures of results by "benchmark/style".

    measures_of({"winoground/seen": result})["winoground/seen/group"]

    Raises TypeError for a result that is none of the kit's.
    """
    found: dict[str, Measure] = {}
    for place, result in judged.items():
        kind = next((kind for kind in _READ if isinstance(result, kind)), None)
        if kind is None:
            raise TypeError(f"{place} is of type {type(result).__name__}: give the results of the kit's evaluations")
        found |= {f"{place}/{name}": measure for name, measure in _READ[kind](result).items()}
    return found


def _retrieval(result: RetrievalResult) -> dict[str, Measure]:
    each, left = divmod(result.n_captions, result.n_images)
    if left:
        raise ValueError(f"{result.n_captions} captions of {result.n_images} pictures: as many of each are needed here")
    images, captions = result.image_to_text[1], result.text_to_image[1]
    return {
        "image_to_text": Measure.of(np.array(result.image_ranks) == 0, images.chance, images.ties),
        "text_to_image": Measure.of(np.array(result.caption_ranks) == 0, captions.chance, captions.ties, each),
    }


def _winoground(result: WinogroundResult) -> dict[str, Measure]:
    parts = {
        name: [getattr(case, f"{name}_margin") > 0 for case in result.cases] for name in ("text", "image", "group")
    }
    scores: dict[str, Score] = {name: getattr(result, name) for name in parts}
    return {name: Measure.of(right, scores[name].chance, scores[name].ties) for name, right in parts.items()}


def _sugarcrepe(result: SugarCrepeResult) -> dict[str, Measure]:
    return {
        name: Measure.of([case.margin > 0 for case in result.cases if case.category == name], score.chance, score.ties)
        for name, score in result.categories.items()
    }


def _generation(result: GenerationResult) -> dict[str, Measure]:
    return {name: Measure.of(right, 0.0) for name, right in result.right.items()}


_READ = {
    RetrievalResult: _retrieval,
    WinogroundResult: _winoground,
    SugarCrepeResult: _sugarcrepe,
    GenerationResult: _generation,
}
