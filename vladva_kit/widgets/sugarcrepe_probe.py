"""A picture, its caption, and the caption made wrong in one of seven ways: which does each model hold for true?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.evaluation import ImageTextEncoder, SugarCrepeCase, SugarCrepeResult
from vladva_kit.plots.figures import decimals
from vladva_kit.plots.style import image_uri
from vladva_kit.widgets.base import EVERY, CaseBrowser, clear_upload, controls, uploaded
from vladva_kit.widgets.cached_embedder import CachedEmbedder, cached_embedder
from vladva_kit.widgets.page import View, page, unseen_words

if TYPE_CHECKING:
    from PIL import Image

Pair = tuple[float, float]  # similarity of the true caption, and of the false one
PLACES = 3  # decimals at least: margins of hard cases are small
Key = tuple[str, str]  # category, and the case's key in it


def sugarcrepe_view(
    image: Image.Image | Path | bytes,
    captions: Sequence[str],
    scores: Mapping[str, Pair],
    heading: str = "",
    unseen: Collection[str] = (),
) -> View:
    """One case as each model sees it: `sugarcrepe_view(case.image, (true, false), {"base": (0.71, 0.69)})`.

    Raises ValueError unless there are two captions and two scores for each model.
    """
    if len(captions) != 2 or not scores or any(len(pair) != 2 for pair in scores.values()):
        raise ValueError(
            f"{len(captions)} captions, scores {dict(scores)}; a case is a true and a false caption, and each model's "
            "similarity with both"
        )
    places = max(PLACES, *map(decimals, scores.values()))
    rows = []
    for model, (true, false) in scores.items():
        pair = [f"{score:.{places}f}" for score in (true, false)]
        margin = f"{float(pair[0]) - float(pair[1]):+.{places}f}".replace("-", "−")  # of the numbers beside it
        rows.append({"model": model, "pair": pair, "margin": margin, "right": true > false})
    picture = image_uri(image)
    return page("sugarcrepe_view", heading=heading, picture=picture, captions=list(captions), rows=rows, unseen=unseen)


def listed_by_margin(
    cases: Sequence[SugarCrepeCase], category: str = EVERY, only_failures: bool = False, by_margin: bool = False
) -> list[Key]:
    """The cases to leaf through, as one model scored them: `listed_by_margin(result.cases, "swap_att", True)`.

    A tie is a failure; worst first where sorted by margin.
    """
    kept = [case for case in cases if category in (EVERY, case.category)]
    kept = [case for case in kept if not only_failures or case.margin <= 0]
    kept = sorted(kept, key=lambda case: case.margin) if by_margin else kept
    return [(case.category, case.key) for case in kept]


class SugarCrepeProbe(CaseBrowser):
    """Leaf through SugarCrepe's cases, rewrite either caption, put in your own photograph; the scores follow.

        results = {name: vk.evaluate_sugarcrepe(model, vk.sample("sugarcrepe_mini")) for name, model in models.items()}
        SugarCrepeProbe(models, results)

    What `results` holds is not computed again. "Only failures" and "worst first" go by the model under "judge by".
    Raises ValueError for no result, or results on different cases.
    """

    def __init__(self, models: Mapping[str, ImageTextEncoder], results: Mapping[str, SugarCrepeResult]) -> None:
        super().__init__()
        self.models: dict[str, CachedEmbedder] = cached_embedder(models)
        self.results = dict(results)
        self.scored = {
            name: {(case.category, case.key): case for case in result.cases} for name, result in results.items()
        }
        if not self.scored or len({frozenset(cases) for cases in self.scored.values()}) != 1:
            raise ValueError(f"results of {', '.join(results) or 'no model'}: give each model's, on the same cases")
        self.cases = next(iter(self.scored.values()))
        self.tokenizer = next(filter(None, (memory.tokenizer for memory in self.models.values())), None)
        categories = list(dict.fromkeys(category for category, _ in self.cases))
        self._build_leaves(categories, list(self.scored))
        self._build(controls())
        with self.laying():
            self.judge.value, self.by_margin.value = list(self.scored)[-1], True
            self._relist()

    def _build(self, widgets: Any) -> None:
        wide = {"layout": widgets.Layout(width="36em"), "continuous_update": False}
        self.true, self.false = (widgets.Text(description=name, **wide) for name in ("true", "false"))
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your picture")
        self.follow(self.true, self.false, self.upload)
        rows = [
            [self.previous, self.next, self.category, self.judge],
            [self.only_failures, self.by_margin, self.upload],
            [self.true],
            [self.false],
        ]
        self.box = widgets.VBox([*map(widgets.HBox, rows), self.view])

    def relisted(self) -> list[Key]:
        """The cases to leaf through, as the model under "judge by" scored them."""
        cases = self.results[self.judge.value].cases
        chosen = (self.category.value, self.only_failures.value, self.by_margin.value)
        return listed_by_margin(cases, *chosen)

    def lay(self) -> None:
        """Puts the case's captions in their boxes and takes an upload away."""
        case = self.cases[self.places[self.at]]
        self.true.value, self.false.value = case.caption, case.negative_caption
        clear_upload(self.upload)

    def draw(self) -> View:
        """The case at hand, with what was written and uploaded in place of its own."""
        if not self.places:
            return page("message", text="no case is left: choose another category, or take 'only failures' off")
        key = self.places[self.at]
        case, own = self.cases[key], uploaded(self.upload.value)
        captions = self.true.value, self.false.value
        image = case.image if own is None else own
        changed = own is not None or captions != (case.caption, case.negative_caption)
        heading = f"{self.at + 1} of {len(self.places)}: {'your own' if changed else case.category}"
        if changed:
            scores = {
                name: tuple(memory.similarity([image], captions)[0].tolist()) for name, memory in self.models.items()
            }
        else:
            scores = {name: (found[key].positive, found[key].negative) for name, found in self.scored.items()}
        return sugarcrepe_view(image, captions, scores, heading, unseen_words(self.tokenizer, " ".join(captions)))
