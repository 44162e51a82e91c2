"""SugarCrepe by eye: one image, a true and a false caption, and which of them each model scores higher."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vladva_kit.evaluation import SugarCrepeResult
from vladva_kit.evaluation.encoding import EncoderOrScorer
from vladva_kit.models.images import ImageLike
from vladva_kit.widgets.case_browser import CaseBrowser, CaseContent, Grid
from vladva_kit.widgets.page import View, page


def sugarcrepe_view(
    image: ImageLike,
    captions: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    heading: str = "",
    unseen: Collection[str] = (),
) -> View:
    """Show one case with each model's scores: `sugarcrepe_view(case.image, (true, false), {"base": (0.71, 0.69)})`.

    `scores[model]` is the similarity of the image with the true and with the false caption; without scores, only the
    case is shown. Raises ValueError unless there are two captions and two scores for each model.
    """
    if len(captions) != 2 or any(len(pair) != 2 for pair in scores.values()):
        raise ValueError(
            f"{len(captions)} captions, scores {dict(scores)}; a case is a true and a false caption, and each model's "
            "similarity with both"
        )
    rows = [
        # the difference of the numbers as shown, so that the table adds up
        {"model": model, "pair": (true, false), "margin": round(true, 2) - round(false, 2), "right": true > false}
        for model, (true, false) in scores.items()
    ]
    return page("sugarcrepe_view", heading=heading, image=image, captions=captions, rows=rows, unseen=unseen)


class SugarCrepeProbe(CaseBrowser):
    """Step through SugarCrepe cases, edit either caption, upload another image; the scores follow.

        results = {name: vk.evaluate_sugarcrepe(model, vk.sample("sugarcrepe_mini")) for name, model in models.items()}
        SugarCrepeProbe(models, results)

    Scores in `results` are not recomputed. The filters use the result of the model under "rank by".
    Raises ValueError if there is no result, or if the results are on different cases.
    """

    def __init__(self, models: Mapping[str, EncoderOrScorer], results: Mapping[str, SugarCrepeResult]) -> None:
        scored = {name: {case.id: case for case in result.cases} for name, result in results.items()}
        if not scored or len({frozenset(cases) for cases in scored.values()}) != 1:
            names = ", ".join(results) or "no model"
            raise ValueError(f"results of {names}: pass the result of each model, all on the same cases")
        cases = next(iter(scored.values())).values()
        scores = {
            name: {index: [(known[case.id].positive, known[case.id].negative)] for index, case in enumerate(cases)}
            for name, known in scored.items()
        }
        contents = [CaseContent(case.category, (case.caption, case.negative_caption), (case.image,)) for case in cases]
        super().__init__(models, contents, scores, _margin, _case_view, ("true", "false"), ("your image",))
        self.worst_first.value = True


def _margin(grid: Grid) -> float:
    return grid[0][0] - grid[0][1]


def _case_view(images: Sequence[Any], captions: Sequence[str], scores: Mapping[str, Grid], *texts: Any) -> View:
    return sugarcrepe_view(images[0], captions, {name: grid[0] for name, grid in scores.items()}, *texts)
