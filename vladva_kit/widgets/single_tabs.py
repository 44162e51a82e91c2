"""Single tabs of the playground: probes of benchmark cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vladva_kit.evaluation import SugarCrepeResult, WinogroundResult
from vladva_kit.evaluation.encoding import EncoderOrScorer
from vladva_kit.evaluation.winoground import load_winoground
from vladva_kit.widgets.cached_embedder import Cached
from vladva_kit.widgets.case_views import ProbeCase, category_label
from vladva_kit.widgets.playground import Playground

Models = Mapping[str, EncoderOrScorer | Cached]


def WinogroundProbe(
    models: Models, source: Any, results: Mapping[str, WinogroundResult] | None = None, split: str = "test"
) -> Playground:
    """Step through Winoground cases, edit captions, replace images; the scores follow.

        WinogroundProbe({"base": baseline, "fine-tuned": embedder}, vk.sample("winoground_mini"))

    `source` is what `evaluate_winoground` takes, or a list of cases. Scores in `results`, by model name as
    `evaluate_winoground` returns them, are not recomputed. A scorer, such as `vk.LikelihoodScorer`, is compared like an
    embedder. Raises BadInput as `load_winoground` does.
    """
    cases = list(source) if isinstance(source, list | tuple) else load_winoground(source, split)
    known = {name: {case.id: case.similarities for case in result.cases} for name, result in (results or {}).items()}
    return Playground(models, cases, tabs=["probe"], results=known)


def SugarCrepeProbe(models: Models, results: Mapping[str, SugarCrepeResult]) -> Playground:
    """Step through SugarCrepe cases, the last model's worst first, edit either caption, replace the image.

        results = {name: vk.evaluate_sugarcrepe(model, vk.sample("sugarcrepe_mini")) for name, model in models.items()}
        SugarCrepeProbe(models, results)

    Scores in `results` are not recomputed. Raises ValueError without a result, or for results on different cases.
    """
    ids = [{case.id for case in result.cases} for result in results.values()]
    if not ids or ids.count(ids[0]) != len(ids):
        names = ", ".join(results) or "no model"
        raise ValueError(f"results of {names}: pass the result of each model, all on the same cases")
    known = {name: {c.id: [(c.positive, c.negative)] for c in result.cases} for name, result in results.items()}
    cases = [
        ProbeCase(case.id, category_label(case.category), (case.caption, case.negative_caption), (case.image,))
        for case in sorted(list(results.values())[-1].cases, key=lambda case: case.margin)
    ]
    return Playground(models, cases, tabs=["probe"], results=known)
