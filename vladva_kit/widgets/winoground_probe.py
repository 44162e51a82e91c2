"""Winoground by eye: two images, two captions of the same words, and each model's four similarities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vladva_kit.evaluation import WinogroundResult
from vladva_kit.evaluation.encoding import EncoderOrScorer
from vladva_kit.evaluation.winoground import load_winoground, winoground_margins
from vladva_kit.models.images import ImageLike
from vladva_kit.plots.evaluation import check_case, winoground_correct
from vladva_kit.widgets.base import BackgroundTask, controls
from vladva_kit.widgets.cached_embedder import with_caches
from vladva_kit.widgets.case_browser import CaseBrowser, CaseContent, Grid
from vladva_kit.widgets.page import View, page


def winoground_view(
    images: Sequence[ImageLike],
    captions: Sequence[str],
    scores: Mapping[str, Grid],
    heading: str = "",
    unseen: Collection[str] = (),
) -> View:
    """Show one case with each model's scores: `winoground_view(case.images, case.captions, {"base": grid})`.

    `scores[model][i][c]` is the similarity of image i with caption c; without scores, only the case is shown.
    Raises ValueError unless there are two images, two captions and a (2, 2) grid for each model.
    """
    # captions as rows, images as columns
    grids = [
        {"model": model, "rows": grid.T.tolist(), "verdict": winoground_correct(grid)}
        for model, grid in check_case(images, captions, scores).items()
    ]
    return page("winoground_view", heading=heading, images=images, captions=captions, grids=grids, unseen=unseen)


def group_margin(grid: Grid) -> float:
    """Return the smallest of the four differences that have to be positive: `group_margin(case.similarities)`."""
    return float(winoground_margins(np.asarray(grid)[None])["group"].margin[0])


class WinogroundProbe(CaseBrowser):
    """Step through Winoground cases, edit captions, upload other images; the scores follow.

        WinogroundProbe({"emoji-clip": vk.load_baseline(), "base": baseline}, vk.sample("winoground_mini"))

    `source` is what `evaluate_winoground` takes, or a list of cases. Scores in `results`, by model name as
    `evaluate_winoground` returns them, are not recomputed. A scorer, such as `vk.LikelihoodScorer`, is compared like an
    embedder. The filters need all cases scored by the model under "rank by": press "score all". Raises BadInput as
    `load_winoground` does.
    """

    def __init__(
        self,
        models: Mapping[str, EncoderOrScorer],
        source: Any,
        results: Mapping[str, WinogroundResult] | None = None,
        split: str = "test",
    ) -> None:
        cases = list(source) if isinstance(source, list | tuple) else load_winoground(source, split)
        contents = [CaseContent(case.category or "no category", case.captions, case.images) for case in cases]
        self.models = with_caches(models)
        scores: dict[str, dict[int, Grid]] = {name: {} for name in self.models}
        for name, result in (results or {}).items():
            known = {case.id: case.similarities for case in result.cases}
            scores[name] = {index: known[case.id] for index, case in enumerate(cases) if case.id in known}
        self.work = BackgroundTask()
        self.score_all = controls().Button(description="score all", tooltip="needed to filter and sort by margin")
        self.score_all.on_click(self.handler(self.score))
        names = ("caption 1", "caption 2"), ("image 1", "image 2")
        super().__init__(self.models, contents, scores, group_margin, winoground_view, *names, buttons=[self.score_all])

    def score(self) -> None:
        """Score all cases with all models in a thread, except those already scored; `work.wait()` joins it."""
        steps = []
        for name, model in self.models.items():
            missing = [case for index, case in enumerate(self.cases) if index not in self.scores[name]]
            steps += model.case_steps([(case.images, case.captions) for case in missing])
        if steps:
            self.work.start([*steps, self._scored], f"scoring {len(self.cases)} cases")
        else:
            self.message.value = page("hint", text="all cases are scored already")

    def _scored(self) -> None:
        for index in range(len(self.cases)):
            self._case_scores(index)  # from the embeddings just cached
        self._list()
