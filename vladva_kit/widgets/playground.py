"""The playground: one page to probe, compose, search, map and ask, which asks Python only to run models."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any

import numpy as np

from vladva_kit.data.pairs import Pair, load_pairs
from vladva_kit.data.samples import sample
from vladva_kit.embedder.identity import image_key
from vladva_kit.evaluation import ImageTextEncoder
from vladva_kit.evaluation.winoground import load_winoground
from vladva_kit.models.images import BadInput
from vladva_kit.plots.style import image_uri
from vladva_kit.widgets.base import error_text
from vladva_kit.widgets.cached_embedder import CachedEmbedder, tokenizer_of, with_caches
from vladva_kit.widgets.case_views import Grid, case_view, is_right
from vladva_kit.widgets.page import View, page, templates, unseen_words
from vladva_kit.widgets.playground_answers import (
    QUESTIONS,
    FieldError,
    answer,
    ask_each,
    image_in,
    lvlm_of,
    packed,
    read_attention,
    rerank_hits,
    text_in,
)
from vladva_kit.widgets.playground_map import PairMap
from vladva_kit.widgets.playground_world import world_state
from vladva_kit.widgets.static_view import WIDGET_VIEW, display_live_and_static, static_html

IMAGE_SIDE = 224  # pixels of the images on the page
GALLERY_STEP = 16  # pairs that one message encodes, so that a busy gallery does not delay a typed caption
KINDS = ("fixed", "broken", "right", "wrong")
TABS = ("probe", "compose", "search", "matrix", "map", "attention", "chat")
ESM = ("elements.js", *(f"{tab}.js" for tab in TABS), "page.js")  # joined to one module, in this order
CSS = ("page.css",)
REQUESTS = ("cases", "score", "gallery", "search", "rerank", "map", "thumbnail", "attention", "chat")


def playground(
    models: Mapping[str, ImageTextEncoder | CachedEmbedder],
    cases: Any = None,
    pairs: Sequence[Pair] | None = None,
    map_pairs: Sequence[Pair] | None = None,
    tabs: Sequence[str] = TABS,
) -> Playground:
    """Open the playground: `vk.playground({"base": baseline, "fine-tuned": embedder})`.

    cases: Winoground cases, as `evaluate_winoground` takes them, or a list of them.
    pairs: pairs with short captions to search, a few hundred at most.
    map_pairs: pairs of the map, thousands at most; by default those to search.
    tabs: some of "probe", "compose", "search", "matrix", "map", "attention" and "chat", in the order of the page.
    Cases and pairs default to shipped samples in a drawing style that no training used.
    The squares of the probe compare the first model with the last: put the model before the fine-tune first.
    """
    return Playground(models, cases, pairs, map_pairs, tabs)


class _Recorded:
    """Stands for a model of which only recorded scores are known."""

    def encode_image(self, items: Sequence[Any]) -> np.ndarray:
        raise BadInput("only its recorded scores are known, and this needs the model")

    encode_text = encode_image


class Playground:
    """One page with a tab for each way to look at models: a notebook displays it, `html()` returns it as one file.

        page = vk.playground({"base": baseline, "fine-tuned": embedder})
        page.handle({"do": "score", "images": [0, 1], "captions": ["a dog", "a cat"]})["scores"]

    The page holds all cases and sends a message for what needs a model; `handle` answers it. Embeddings are cached.
    Scores in `results`, by the names of models and the ids of cases, are not computed again.
    Raises ValueError for an unknown tab, or without a model, a case or a captioned pair that a tab needs, and what
    loading the cases raises.
    """

    def __init__(
        self,
        models: Mapping[str, ImageTextEncoder | CachedEmbedder],
        cases: Any = None,
        pairs: Sequence[Pair] | None = None,
        map_pairs: Sequence[Pair] | None = None,
        tabs: Sequence[str] = TABS,
        results: Mapping[str, Mapping[str, Grid]] | None = None,
    ) -> None:
        if not tabs or not set(tabs) <= set(TABS):
            raise ValueError(f"tabs {', '.join(tabs) or 'none'}: choose from {', '.join(TABS)}")
        self.tabs, self._results = [tab for tab in TABS if tab in tabs], results or {}
        self.models = with_caches({**models, **{name: _Recorded() for name in self._results if name not in models}})
        needs_cases, needs_pairs = "probe" in self.tabs, not {"probe", "compose"} >= set(self.tabs)
        source = cases if cases is not None else sample("winoground_mini") / "unseen_style" if needs_cases else []
        self.cases = list(source) if isinstance(source, list | tuple) else load_winoground(source)
        if pairs is None:
            pairs = load_pairs(sample("emoji_pairs"), "unseen_style")[:200] if needs_pairs else []
        self.pairs = [pair for pair in pairs if pair.short]
        if needs_cases and not self.cases or needs_pairs and not self.pairs:
            raise ValueError(
                f"{len(self.cases)} cases and {len(self.pairs)} captioned pairs; give at least one of each"
            )
        self.map_pairs = self.pairs if map_pairs is None else [pair for pair in map_pairs if pair.short]
        self._pair_map = PairMap(self.models, self.map_pairs)
        self.scores: dict[int, list[Grid | None]] = {}  # case -> one grid [image][caption] per model
        self._edits: dict[int, tuple[Any, Any, dict[str, Grid]]] = {}  # case -> its images, captions and scores, edited
        for number, case in enumerate(self.cases):
            known = [self._results.get(name, {}).get(case.id) for name in self.models]
            if None not in known:
                self.scores[number] = known
        self._matrices: list[str | None] | None = None  # of the gallery, once it is encoded
        self._tokenizer = tokenizer_of(self.models)
        self._static: Any = None  # handle of the static view, if it is a separate output
        sources = [image for case in self.cases for image in case.images] + [pair.image for pair in self.pairs]
        unique = {image_key(image): image for image in sources}
        numbers = {key: number for number, key in enumerate(unique)}
        self.images, self._numbers = list(unique.values()), [numbers[image_key(image)] for image in sources]

    @cached_property
    def state(self) -> dict[str, Any]:
        """Everything that the page shows without Python, as JSON values; images are data URIs."""
        numbers = iter(self._numbers)  # of the cases' images, then of the gallery's
        return {
            "tabs": self.tabs,
            "models": list(self.models),
            "lvlms": [lvlm_of(model) is not None for model in self.models.values()],
            "adapters": [getattr(model.embedder, "config", None) is not None for model in self.models.values()],
            "questions": QUESTIONS,
            "world": world_state(),
            "images": [image_uri(image, IMAGE_SIDE) for image in self.images],
            "map": None if self.map_pairs is self.pairs else [pair.short for pair in self.map_pairs],
            "cases": [
                {
                    "id": case.id,
                    "category": case.category,
                    "captions": list(case.captions),
                    "images": [next(numbers) for _ in case.images],
                }
                for case in self.cases
            ],
            "pairs": [{"caption": pair.short, "image": next(numbers)} for pair in self.pairs],
        }

    def handle(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a message of the page: `handle({"do": "cases", "cases": [0, 1]})["scores"]`.

        - `{"do": "cases", "cases": [number, …]}`: scores of unedited cases;
        - `{"do": "score", "images": [image, …], "captions": [text, text], "case": n}`: scores of an edited case;
        - `{"do": "gallery", "start": n}`: encode the next pairs; at the end, each model's matrix, float32 in base64;
        - `{"do": "search", "text": text}` or `{"do": "search", "image": image}`: scores of the pairs;
        - `{"do": "map", "start": n, "method": "PCA", "gap": false}`: encode the next pairs; at the end, all maps;
        - `{"do": "thumbnail", "pair": n}`: the image of a pair of the map;
        - `{"do": "rerank", "text": text, "hits": [[pair, …], …]}`: log-probabilities of each model's best hits;
        - `{"do": "attention", "image": image}`: each LVLM's attention on the image, by layer and head;
        - `{"do": "chat", "model": n, "adapter": true, "image": image, "question": text, "turns": []}`: an answer.

        An image is a number in `state["images"]` or a data URI. The answer repeats the message's id. An error is
        answered as `{"error": text}`, with "field" if it belongs to one, and never raised. A model that fails has None
        as its scores, and the reason is in "notes".
        """
        reply = {"id": message.get("id")}
        try:
            if message.get("do") not in REQUESTS:
                raise BadInput(f"unknown request {message.get('do')!r}; known are {', '.join(REQUESTS)}")
            return reply | getattr(self, f"_{message['do']}")(message)
        except FieldError as error:
            return reply | {"error": str(error), "field": error.field}
        except Exception as error:  # a page has no caller that could catch it
            return reply | {"error": error_text(error)}

    def _cases(self, message: Mapping[str, Any]) -> dict[str, Any]:
        notes: list[str] = []
        for number in message["cases"]:
            if number not in self.scores:
                case = self.cases[number]
                found, new = self._similarities(case.images, case.captions)
                known = [self._results.get(name, {}).get(case.id) for name in self.models]
                self.scores[number] = [grid if one is None else one for one, grid in zip(known, found, strict=True)]
                notes += new
        return {"scores": {str(n): self.scores[n] for n in message["cases"]}, "notes": list(dict.fromkeys(notes))}

    def _score(self, message: Mapping[str, Any]) -> dict[str, Any]:
        captions = [text_in(text, f"caption {number}") for number, text in enumerate(message["captions"], 1)]
        images = [image_in(image, f"image {number}", self.images) for number, image in enumerate(message["images"], 1)]
        scores, notes = self._similarities(images, captions)
        if "case" in message:
            self._edits[message["case"]] = images, captions, self._by_name(scores)
        return {"scores": scores, "notes": notes, "unseen": sorted(unseen_words(self._tokenizer, " ".join(captions)))}

    def _gallery(self, message: Mapping[str, Any]) -> dict[str, Any]:
        start = message["start"]
        step, end = self.pairs[start : start + GALLERY_STEP], start + GALLERY_STEP
        _, notes = self._similarities([pair.image for pair in step], [str(pair.short) for pair in step])
        if end < len(self.pairs):
            return {"next": end, "notes": notes}
        images, captions = [pair.image for pair in self.pairs], [str(pair.short) for pair in self.pairs]
        found, notes = self._similarities(images, captions, as_lists=False)
        self._matrices = [None if one is None else packed(one) for one in found]
        return {"matrices": self._matrices, "notes": notes}

    def _search(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if "image" in message:
            image = image_in(message["image"], "image", self.images)
            found, notes = self._similarities([image], [str(pair.short) for pair in self.pairs])
            return {"scores": [one and one[0] for one in found], "notes": notes, "unseen": []}
        text = text_in(message["text"], "search")
        found, notes = self._similarities([pair.image for pair in self.pairs], [text])
        scores = [one and [row[0] for row in one] for one in found]
        return {"scores": scores, "notes": notes, "unseen": sorted(unseen_words(self._tokenizer, text))}

    def _rerank(self, message: Mapping[str, Any]) -> dict[str, Any]:
        images = {str(number): pair.image for number, pair in enumerate(self.pairs)}
        return rerank_hits(self.models, text_in(message["text"], "search"), message["hits"], images)

    def _map(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return self._pair_map.answer(message["start"], message["method"], message["gap"])

    def _thumbnail(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return {"uri": image_uri(self.map_pairs[message["pair"]].image, IMAGE_SIDE)}

    def _attention(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return read_attention(self.models, image_in(message["image"], "image", self.images))

    def _chat(self, message: Mapping[str, Any]) -> dict[str, Any]:
        model, image = list(self.models.values())[message["model"]], image_in(message["image"], "image", self.images)
        question = text_in(message["question"], "question")
        reply = answer(model, image, question, message["turns"], message["adapter"])
        return {"answer": reply, "unseen": sorted(unseen_words(self._tokenizer, question))}

    @property
    def selection(self) -> list[int]:
        """The pairs selected in the map: `[page.map_pairs[number] for number in page.selection]`."""
        return list(self.widget.selection) if "widget" in self.__dict__ else []

    def to_frame(self, model: str | None = None) -> Any:
        """Return the map of a model, by default the last, as a DataFrame with a row per point.

            jscatter.Scatter(data=page.to_frame(), x="x", y="y", color_by="kind").show()
            EmbeddingAtlasWidget(page.to_frame(), x="x", y="y", text="caption")

        Columns: pair, kind ("image" or "caption"), caption, x, y, selected. Pairs that are not encoded yet are encoded.
        Raises KeyError for an unknown model, ValueError if it fails, and ImportError without pandas.
        """
        return self._pair_map.frame(list(self.models)[-1] if model is None else model, self.selection)

    def _similarities(
        self, images: Sequence[Any], captions: Sequence[str], as_lists: bool = True
    ) -> tuple[list[Any], list[str]]:
        """Return each model's cosines (n_images, n_captions), None for a model that fails, and why it failed."""

        def score(model: CachedEmbedder) -> Any:
            scores = model.similarity(images, captions)
            if not np.isfinite(scores).all():
                raise BadInput("a similarity is not a number; look for NaN in its weights or use float32")
            return scores.tolist() if as_lists else scores

        return ask_each(self.models, score)

    def score_cases(self) -> dict[str, int]:
        """Score all cases, and count what changes from the first model to the last: `{"fixed": 12, "broken": 3, …}`."""
        self._cases({"cases": range(len(self.cases))})
        return self.counts()

    def counts(self) -> dict[str, int]:
        """Count the scored cases by their group score: fixed, broken, right and wrong with both models."""
        kinds = [self._kind(grids) for grids in self.scores.values()]
        return {kind: kinds.count(kind) for kind in KINDS}

    def _kind(self, grids: Sequence[Grid | None]) -> str | None:
        if grids[0] is None or grids[-1] is None:
            return None
        before, after = is_right(grids[0]), is_right(grids[-1])
        return ("right" if after else "broken") if before else ("fixed" if after else "wrong")

    def _by_name(self, grids: Sequence[Grid | None]) -> dict[str, Grid]:
        return {name: grid for name, grid in zip(self.models, grids, strict=True) if grid}

    def view(self) -> View:
        """Return a case as static HTML: the one that the live page shows, otherwise a fixed one if there is one."""
        shown = self.widget.shown if "widget" in self.__dict__ else {}
        fixed = (number for number, grids in sorted(self.scores.items()) if self._kind(grids) == "fixed")
        number = shown.get("case", next(fixed, min(self.scores, default=0)))
        case, heading = self.cases[number], f"Playground, case {number + 1} of {len(self.cases)}"
        if shown.get("edited") and number in self._edits:
            return case_view(*self._edits[number], f"{heading}: edited")
        self._cases({"cases": [number]})
        if len(self.scores) == len(self.cases):
            heading += ": " + ", ".join(f"{n} {kind}" for kind, n in self.counts().items())
        return case_view(case.images, case.captions, self._by_name(self.scores[number]), heading)

    def html(self, endpoint: str = "", before: str = "") -> str:
        """Return a self-contained page. It shows the cases scored so far, and scores new input at `endpoint`, a URL.

        before: HTML above the page. Its scripts may set `vladva.answer(message, state)`, which then answers messages.
        """
        values = {"state": self._state_and_scores(), "endpoint": endpoint, "css": _assets(CSS), "esm": _assets(ESM)}
        values["before"] = before
        return templates("vladva_kit.widgets").get_template("playground.html.j2").render(**values)

    def _state_and_scores(self) -> dict[str, Any]:
        scores = {str(number): grids for number, grids in self.scores.items()}
        return self.state | {"scores": scores, "matrices": self._matrices, "maps": self._pair_map.packed()}

    @cached_property
    def widget(self) -> Any:
        """The live widget. Raises ImportError that names the package to install."""
        widget = _widget_class()(state=self._state_and_scores())
        widget.on_msg(lambda _, message, __: (widget.send(self.handle(message)), self._follow()))
        widget.observe(self._follow, "shown")
        return widget

    def _ipython_display_(self) -> None:
        """Display the live page, and a static view that follows it and that a saved notebook shows."""
        self._static = display_live_and_static(self._repr_mimebundle_())

    def _follow(self, *_: object) -> None:
        if self._static is not None and self.widget.shown:
            content = {"text/html": static_html(self._static_view()), "text/plain": "Playground"}
            self._static.update(content, raw=True)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Return the live widget together with a static view, which GitHub and HTML exports show."""
        bundle: dict[str, Any] = {"text/plain": "Playground", "text/html": str(self._static_view())}
        try:
            live = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        except ImportError as error:
            return bundle | {"text/html": f"{page('message', text=str(error))}{bundle['text/html']}"}
        if "google.colab" in sys.modules:  # Colab does not document which of the two it would show
            del bundle["text/html"]
        return bundle | {WIDGET_VIEW: live}

    def _static_view(self) -> View:
        try:
            return self.view()
        except Exception as error:  # such as a model in training: the live page says so too
            return page("message", text=error_text(error))


def _assets(names: Sequence[str]) -> str:
    """Join files of the page; a front end takes one module and one style sheet."""
    folder = resources.files("vladva_kit.widgets") / "templates" / "playground"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


@lru_cache
def _widget_class() -> type:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError("the playground needs anywidget: pip install 'vladva-kit[notebooks]'") from error

    class PlaygroundWidget(anywidget.AnyWidget):
        _esm = _assets(ESM)
        _css = _assets(CSS)
        state = traitlets.Dict().tag(sync=True)
        selection = traitlets.List(traitlets.Int()).tag(sync=True)  # pairs selected in the map
        shown = traitlets.Dict().tag(sync=True)  # what the probe shows: {"case": 3, "edited": True}

    return PlaygroundWidget
