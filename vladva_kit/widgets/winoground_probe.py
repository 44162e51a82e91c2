"""Two pictures, two captions of the same words: what each model makes of them, and of what you write instead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.evaluation import ImageTextEncoder, WinogroundCase, WinogroundResult
from vladva_kit.evaluation.metrics import winoground
from vladva_kit.evaluation.winoground import load_winoground
from vladva_kit.plots.figures import decimals, verdict
from vladva_kit.plots.style import image_uri
from vladva_kit.widgets.base import EVERY, CaseBrowser, Work, clear_upload, controls, uploaded
from vladva_kit.widgets.cached_embedder import CachedEmbedder, cached_embedder
from vladva_kit.widgets.page import View, page, unseen_words

if TYPE_CHECKING:
    from PIL import Image

Grid = Sequence[Sequence[float]]  # [image][caption], 2 × 2
AT_ONCE = 8  # cases between two looks at the cancel button


def winoground_view(
    images: Sequence[Image.Image | Path | bytes],
    captions: Sequence[str],
    scores: Mapping[str, Grid],
    heading: str = "",
    unseen: Collection[str] = (),
) -> View:
    """One case as each model sees it: `winoground_view(case.images, case.captions, {"base": case.similarities})`.

    `scores[model][i][c]` is the similarity of picture i with caption c; without scores the case alone is shown.
    Raises ValueError unless there are two pictures, two captions and a (2, 2) grid for each model.
    """
    shapes = {np.shape(grid) for grid in scores.values()}
    if len(images) != 2 or len(captions) != 2 or shapes - {(2, 2)}:
        raise ValueError(
            f"{len(images)} images, {len(captions)} captions, scores of shapes {sorted(shapes) or 'none'}; "
            "a case is two images, two captions and a (2, 2) score grid for each model"
        )
    grids = []
    places = max(map(decimals, scores.values()), default=0)  # alike for all models, so that they can be compared
    for model, grid in scores.items():
        # captions are rows and pictures columns, as in plots.winoground_case
        rows = [[f"{grid[i][c]:.{places}f}" for i in range(2)] for c in range(2)]
        grids.append({"model": model, "rows": rows, "verdict": verdict(grid)})
    pictures = [image_uri(image) for image in images]
    return page(
        "winoground_view", heading=heading, pictures=pictures, captions=list(captions), grids=grids, unseen=unseen
    )


def category_of(case: WinogroundCase) -> str:
    """The tag by which cases are filtered: Winoground's collapsed one where there is one."""
    return case.tags.get("collapsed_tag", case.tags.get("tag", "no category"))


def listed_cases(
    cases: Sequence[WinogroundCase],
    grids: Mapping[str, Grid] | None = None,
    category: str = EVERY,
    only_failures: bool = False,
    by_margin: bool = False,
) -> list[int]:
    """Places of the cases to leaf through: `listed_cases(cases, grids, "Relation", only_failures=True)`.

    `grids[case.id]` is one model's; without them neither failures nor margins are known, and a case that has none is
    left out of both. A case's margin is its group margin: worst first.
    """
    places = [place for place, case in enumerate(cases) if category in (EVERY, category_of(case))]
    if grids is None or not (only_failures or by_margin):
        return places
    margins = {
        place: float(winoground(np.asarray(grids[cases[place].id], dtype=np.float64)[None]).group_margin[0])
        for place in places
        if cases[place].id in grids
    }
    kept = [place for place in margins if not only_failures or margins[place] <= 0]
    return sorted(kept, key=margins.__getitem__) if by_margin else kept


def scored_in_pieces(
    models: Mapping[str, CachedEmbedder],
    cases: Sequence[WinogroundCase],
    keep: Callable[[str, str, np.ndarray], None],
    at_once: int = AT_ONCE,
) -> Iterator[int]:
    """Scores cases a few at a time and yields how many are done; `keep(model, case.id, grid)` takes each."""
    done = 0
    for model, memory in models.items():
        for start in range(0, len(cases), at_once):
            some = cases[start : start + at_once]
            memory.encode_image([image for case in some for image in case.images])  # a batch, then looked up
            memory.encode_text([caption for case in some for caption in case.captions])
            for case in some:
                keep(model, case.id, memory.similarity(case.images, case.captions))
            done += len(some)
            yield done


class WinogroundProbe(CaseBrowser):
    """Leaf through Winoground's cases, rewrite captions, put in your own photographs; the scores follow.

        WinogroundProbe({"emoji-clip": vk.load_baseline(), "base": baseline}, vk.sample("winoground_mini"))

    `source` is what `evaluate_winoground` takes, or a list of cases. Scores that `results` holds (by the models'
    names, as `evaluate_winoground` gave them) are not computed again. "Only failures" and "worst first" go by the
    model chosen under "judge by", once all its cases are scored ("score all").
    Raises BadInput as `load_winoground` does.
    """

    def __init__(
        self,
        models: Mapping[str, ImageTextEncoder],
        source: Any,
        results: Mapping[str, WinogroundResult] | None = None,
        split: str = "test",
    ) -> None:
        super().__init__()
        self.models = cached_embedder(models)
        self.cases = list(source) if isinstance(source, list | tuple) else load_winoground(source, split)
        self.grids: dict[str, dict[str, Grid]] = {model: {} for model in self.models}
        for model, result in (results or {}).items():
            self.grids.setdefault(model, {}).update({case.id: case.similarities for case in result.cases})
        self.tokenizer = next(filter(None, (memory.tokenizer for memory in self.models.values())), None)
        self.work = Work()
        self._build_leaves(sorted({category_of(case) for case in self.cases}), list(self.grids))
        self._build(controls())
        self._relist()

    def _build(self, widgets: Any) -> None:
        wide = {"layout": widgets.Layout(width="36em"), "continuous_update": False}
        self.score_all = widgets.Button(description="score all", tooltip="needed for failures and margins")
        self.caption_0 = widgets.Text(description="caption 1", **wide)
        self.caption_1 = widgets.Text(description="caption 2", **wide)
        self.upload_0, self.upload_1 = (
            widgets.FileUpload(accept="image/*", multiple=False, description=f"picture {number}") for number in (1, 2)
        )
        self.score_all.on_click(lambda _: self.score())
        self.follow(self.caption_0, self.caption_1, self.upload_0, self.upload_1)
        rows = [
            [self.previous, self.next, self.category, self.judge],
            [self.only_failures, self.by_margin, self.score_all],
            [self.caption_0, self.upload_0],
            [self.caption_1, self.upload_1],
        ]
        self.box = widgets.VBox([*map(widgets.HBox, rows), self.work.box, self.view])

    def score(self) -> None:
        """Scores all cases of all models in a thread, those with scores left out; `work.wait()` joins it."""
        lacking = {model: [case for case in self.cases if case.id not in self.grids[model]] for model in self.models}
        total = sum(map(len, lacking.values()))
        turns = sum(-(-len(cases) // AT_ONCE) for cases in lacking.values())
        pieces = (
            piece
            for model, cases in lacking.items()
            for piece in scored_in_pieces({model: self.models[model]}, cases, self._keep)
        )
        self.work.start(pieces, turns, self._relist, f"scoring {total} cases")

    def _keep(self, model: str, case: str, grid: np.ndarray) -> None:
        self.grids[model][case] = grid.tolist()

    def _judged(self) -> dict[str, Grid] | None:
        grids = self.grids[self.judge.value]
        return grids if all(case.id in grids for case in self.cases) else None

    def relisted(self) -> list[int]:
        """Places of the cases to leaf through; failures and margins are known once all are scored."""
        grids = self._judged()
        self.only_failures.disabled = self.by_margin.disabled = grids is None
        chosen = (self.category.value, self.only_failures.value, self.by_margin.value)
        return listed_cases(self.cases, grids, *chosen)

    def lay(self) -> None:
        """Puts the case's captions in their boxes and takes uploads away."""
        self.caption_0.value, self.caption_1.value = self.cases[self.places[self.at]].captions
        for upload in (self.upload_0, self.upload_1):
            clear_upload(upload)

    def draw(self) -> View:
        """The case at hand, with what was written and uploaded in place of its own."""
        if not self.places:
            return page("message", text="no case is left: choose another category, or take 'only failures' off")
        case = self.cases[self.places[self.at]]
        captions = self.caption_0.value, self.caption_1.value
        own = [uploaded(upload.value) for upload in (self.upload_0, self.upload_1)]
        images = [given if given is not None else image for given, image in zip(own, case.images, strict=True)]
        changed = captions != case.captions or any(image is not None for image in own)
        heading = f"{self.at + 1} of {len(self.places)}: {'your own' if changed else category_of(case)}"
        scores = {model: self._grid(model, case, images, captions, changed) for model in self.grids}
        scores = {model: grid for model, grid in scores.items() if grid is not None}
        unseen = unseen_words(self.tokenizer, " ".join(captions))
        return winoground_view(images, captions, scores, heading, unseen)

    def _grid(
        self, model: str, case: WinogroundCase, images: Sequence[Any], captions: tuple[str, str], changed: bool
    ) -> Grid | None:
        if not changed and case.id in self.grids[model]:
            return self.grids[model][case.id]
        if model not in self.models:  # known by its results alone
            return None
        grid = self.models[model].similarity(images, captions).tolist()
        if not changed:
            self.grids[model][case.id] = grid
        return grid
