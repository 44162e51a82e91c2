"""Step through a benchmark's cases, edit their captions, replace their images: the base of both probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from vladva_kit.evaluation.encoding import EncoderOrScorer
from vladva_kit.widgets.base import WidgetBase, clear_upload, controls, text_box, text_of, upload_button, uploaded
from vladva_kit.widgets.cached_embedder import Cached, tokenizer_of, with_caches
from vladva_kit.widgets.page import View, page, unseen_words

EVERY = "every category"
WORDS = {"obj": "object", "att": "attribute", "rel": "relation"}  # abbreviations in SugarCrepe's categories
Grid = Sequence[Sequence[float]]  # similarities [image][caption]


@dataclass(frozen=True)
class CaseContent:
    """What a case shows: its category, its captions and its images."""

    category: str
    captions: Sequence[str]
    images: Sequence[Any]


def category_label(category: str) -> str:
    """Spell out a category of SugarCrepe: `category_label("replace_obj") == "replace object"`."""
    return " ".join(WORDS.get(word, word) for word in category.split("_"))


class CaseBrowser(WidgetBase):
    """Base of widgets that step through cases; `listed` holds the indices of those that pass the filters.

    A subclass passes its cases, the scores known so far, `scores[model][index]`, a function from a case's scores to its
    margin, and the function that shows a case. The filters use the scores of the model under "rank by", once all its
    cases are scored.
    """

    listed: Sequence[int] = ()
    position = 0  # in `listed`

    def __init__(
        self,
        models: Mapping[str, EncoderOrScorer | Cached],
        cases: Sequence[CaseContent],
        scores: Mapping[str, Mapping[int, Grid]],
        margin: Callable[[Grid], float],
        view: Callable[..., View],
        caption_names: Sequence[str],
        image_names: Sequence[str],
        buttons: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.models, self.cases = with_caches(models), list(cases)
        self.scores = {name: dict(known) for name, known in scores.items()}
        self.tokenizer = tokenizer_of(self.models)
        self._margin, self._case_view = margin, view
        widgets = controls()
        self.previous, self.next = (widgets.Button(description=text) for text in ("◀ previous", "next ▶"))
        categories = [(category_label(name), name) for name in sorted({case.category for case in self.cases})]
        self.category = widgets.Dropdown(options=[(EVERY, EVERY), *categories], description="category")
        names = list(self.scores)
        self.rank_by = widgets.Dropdown(options=names, value=names[-1], description="rank by")
        self.only_failures = widgets.Checkbox(description="only failures", indent=False)
        self.worst_first = widgets.Checkbox(description="worst first", indent=False)
        self.captions = [text_box(name) for name in caption_names]
        self.uploads = [upload_button(name) for name in image_names]
        self.previous.on_click(self.handler(lambda: self._step(-1)))
        self.next.on_click(self.handler(lambda: self._step(1)))
        for control in (self.category, self.rank_by, self.only_failures, self.worst_first):
            control.observe(self.handler(self._list), "value")
        self.redraw_on(*self.captions, *self.uploads)
        fields = [[part for part in row if part is not None] for row in zip_longest(self.captions, self.uploads)]
        top = [self.previous, self.next, self.category, self.rank_by]
        self._assemble(top, [self.only_failures, self.worst_first, *buttons], *fields)
        self._list()

    def _list(self, *_: object) -> None:
        """Apply the filters and go to the first case; a margin of zero or less is a failure."""
        indices = [index for index, case in enumerate(self.cases) if self.category.value in (EVERY, case.category)]
        known = self.scores[self.rank_by.value]
        complete = len(known) == len(self.cases)
        self.only_failures.disabled = self.worst_first.disabled = not complete
        if complete:
            margins = {index: self._margin(known[index]) for index in indices}
            if self.only_failures.value:
                indices = [index for index in indices if margins[index] <= 0]
            if self.worst_first.value:
                indices.sort(key=margins.__getitem__)
        self.listed = indices
        self._go_to(0)

    def _step(self, by: int) -> None:
        if self.listed:
            self._go_to((self.position + by) % len(self.listed))

    def _go_to(self, position: int) -> None:
        """Show a case as it is in the benchmark: edits and uploads are discarded."""
        with self.batched():
            self.position = position
            if self.listed:
                for box, caption in zip(self.captions, self.cases[self.listed[position]].captions, strict=True):
                    box.value = caption
                for upload in self.uploads:
                    clear_upload(upload)

    def draw(self) -> View:
        """Show the current case with the edited captions and the uploaded images; without scores if there are none."""
        if not self.listed:
            return page("message", text="no case left: choose another category or untick 'only failures'")
        index = self.listed[self.position]
        case = self.cases[index]
        captions, images = [box.value for box in self.captions], list(case.images)
        edited = captions != list(case.captions) or any(upload.value for upload in self.uploads)
        scores: dict[str, Grid] = {}
        with self.reporting():
            for number, upload in enumerate(self.uploads):
                images[number] = uploaded(upload) or images[number]
            scores = self._edited_scores(images) if edited else self._case_scores(index)
        heading = f"{self.position + 1} of {len(self.listed)}: {'edited' if edited else category_label(case.category)}"
        return self._case_view(images, captions, scores, heading, unseen_words(self.tokenizer, " ".join(captions)))

    def _edited_scores(self, images: Sequence[Any]) -> dict[str, Grid]:
        captions = [text_of(box) for box in self.captions]
        return {name: model.similarity(images, captions).tolist() for name, model in self.models.items()}

    def _case_scores(self, index: int) -> dict[str, Grid]:
        """Return each model's scores of a case, computed and kept if they are not known."""
        case = self.cases[index]
        for name, model in self.models.items():
            known = self.scores.setdefault(name, {})
            if index not in known:
                known[index] = model.similarity(case.images, case.captions).tolist()
        return {name: known[index] for name, known in self.scores.items() if index in known}
