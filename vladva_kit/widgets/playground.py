"""The playground: probe Winoground cases and search images on one page, which asks Python only to encode."""

from __future__ import annotations

import base64
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
from vladva_kit.models.images import BadInput, open_image
from vladva_kit.plots.evaluation import winoground_correct
from vladva_kit.plots.style import image_uri
from vladva_kit.widgets.base import WIDGET_VIEW, display_live_and_static, error_text
from vladva_kit.widgets.cached_embedder import CachedEmbedder, tokenizer_of, with_caches
from vladva_kit.widgets.case_browser import Grid
from vladva_kit.widgets.page import View, page, templates, unseen_words
from vladva_kit.widgets.winoground_probe import winoground_view

IMAGE_SIDE = 224  # pixels of the images on the page
GALLERY_STEP = 16  # pairs that one message encodes, so that a busy gallery does not delay a typed caption
KINDS = ("fixed", "broken", "right", "wrong")


class FieldError(ValueError):
    """An error of one field, which the page shows below that field."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def playground(
    models: Mapping[str, ImageTextEncoder | CachedEmbedder], cases: Any = None, pairs: Sequence[Pair] | None = None
) -> Playground:
    """Open the playground: `vk.playground({"base": baseline, "fine-tuned": embedder})`.

    cases: Winoground cases, as `evaluate_winoground` takes them, or a list of them.
    pairs: pairs with short captions to search, a few hundred at most.
    Both default to shipped samples in a drawing style that no training used.
    The squares of the probe compare the first model with the last: put the model before the fine-tune first.
    """
    return Playground(models, cases, pairs)


class Playground:
    """One page with the tabs Probe and Search: a notebook displays it, `html()` returns it as one file.

        page = vk.playground({"base": baseline, "fine-tuned": embedder})
        page.handle({"do": "score", "images": [0, 1], "captions": ["a dog", "a cat"]})["scores"]

    The page holds all cases and sends a message for what needs a model; `handle` answers it. Embeddings are cached.
    Raises ValueError if there is no model, no case or no captioned pair, and what loading the cases raises.
    """

    def __init__(
        self,
        models: Mapping[str, ImageTextEncoder | CachedEmbedder],
        cases: Any = None,
        pairs: Sequence[Pair] | None = None,
    ) -> None:
        self.models = with_caches(models)
        source = sample("winoground_mini") / "unseen_style" if cases is None else cases
        self.cases = list(source) if isinstance(source, list | tuple) else load_winoground(source)
        loaded = load_pairs(sample("emoji_pairs"), "unseen_style")[:200] if pairs is None else pairs
        self.pairs = [pair for pair in loaded if pair.short]
        if not self.cases or not self.pairs:
            raise ValueError(
                f"{len(self.cases)} cases and {len(self.pairs)} captioned pairs; give at least one of each"
            )
        self.scores: dict[int, list[Grid | None]] = {}  # case -> one grid [image][caption] per model
        self._matrices: list[str | None] | None = None  # of the gallery, once it is encoded
        self._tokenizer = tokenizer_of(self.models)
        sources = [image for case in self.cases for image in case.images] + [pair.image for pair in self.pairs]
        unique = {image_key(image): image for image in sources}
        numbers = {key: number for number, key in enumerate(unique)}
        self._images, self._numbers = list(unique.values()), [numbers[image_key(image)] for image in sources]

    @cached_property
    def state(self) -> dict[str, Any]:
        """Everything that the page shows without Python, as JSON values; images are data URIs."""
        case_images, gallery = self._numbers[: 2 * len(self.cases)], self._numbers[2 * len(self.cases) :]
        return {
            "models": list(self.models),
            "images": [image_uri(image, IMAGE_SIDE) for image in self._images],
            "cases": [
                {
                    "id": case.id,
                    "category": case.category,
                    "captions": list(case.captions),
                    "images": case_images[2 * number : 2 * number + 2],
                }
                for number, case in enumerate(self.cases)
            ],
            "pairs": [
                {"caption": pair.short, "image": number} for pair, number in zip(self.pairs, gallery, strict=True)
            ],
        }

    def handle(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a message of the page: `handle({"do": "cases", "cases": [0, 1]})["scores"]`.

        - `{"do": "cases", "cases": [number, …]}`: scores of unedited cases;
        - `{"do": "score", "images": [image, image], "captions": [text, text]}`: scores of an edited case;
        - `{"do": "gallery", "start": n}`: encode the next pairs; at the end, each model's matrix, float32 in base64;
        - `{"do": "search", "text": text}` or `{"do": "search", "image": image}`: scores of the pairs.

        An image is a number in `state["images"]` or a data URI. The answer repeats the message's id. An error is
        answered as `{"error": text}`, with "field" if it belongs to one, and never raised. A model that fails has None
        as its scores, and the reason is in "notes".
        """
        answers = {"cases": self._cases, "score": self._score, "gallery": self._gallery, "search": self._search}
        reply = {"id": message.get("id")}
        try:
            if message.get("do") not in answers:
                raise BadInput(f"unknown request {message.get('do')!r}; known are {', '.join(answers)}")
            return reply | answers[message["do"]](message)
        except FieldError as error:
            return reply | {"error": str(error), "field": error.field}
        except Exception as error:  # a page has no caller that could catch it
            return reply | {"error": error_text(error)}

    def _cases(self, message: Mapping[str, Any]) -> dict[str, Any]:
        notes: list[str] = []
        for number in message["cases"]:
            if number not in self.scores:
                case = self.cases[number]
                self.scores[number], new = self._similarities(case.images, case.captions)
                notes += new
        return {"scores": {str(n): self.scores[n] for n in message["cases"]}, "notes": list(dict.fromkeys(notes))}

    def _score(self, message: Mapping[str, Any]) -> dict[str, Any]:
        captions = [_text(text, f"caption {number}") for number, text in enumerate(message["captions"], 1)]
        images = [self._image(image, f"image {number}") for number, image in enumerate(message["images"], 1)]
        scores, notes = self._similarities(images, captions)
        return {"scores": scores, "notes": notes, "unseen": sorted(unseen_words(self._tokenizer, " ".join(captions)))}

    def _gallery(self, message: Mapping[str, Any]) -> dict[str, Any]:
        start = message["start"]
        step, end = self.pairs[start : start + GALLERY_STEP], start + GALLERY_STEP
        _, notes = self._similarities([pair.image for pair in step], [str(pair.short) for pair in step])
        if end < len(self.pairs):
            return {"next": end, "notes": notes}
        images, captions = [pair.image for pair in self.pairs], [str(pair.short) for pair in self.pairs]
        found, notes = self._similarities(images, captions, as_lists=False)
        self._matrices = [
            None if one is None else base64.b64encode(one.astype("<f4").tobytes()).decode() for one in found
        ]
        return {"matrices": self._matrices, "notes": notes}

    def _search(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if "image" in message:
            image = self._image(message["image"], "image")
            found, notes = self._similarities([image], [str(pair.short) for pair in self.pairs])
            return {"scores": [one and one[0] for one in found], "notes": notes, "unseen": []}
        text = _text(message["text"], "search")
        found, notes = self._similarities([pair.image for pair in self.pairs], [text])
        scores = [one and [row[0] for row in one] for one in found]
        return {"scores": scores, "notes": notes, "unseen": sorted(unseen_words(self._tokenizer, text))}

    def _similarities(
        self, images: Sequence[Any], captions: Sequence[str], as_lists: bool = True
    ) -> tuple[list[Any], list[str]]:
        """Return each model's cosines (n_images, n_captions), None for a model that fails, and why it failed."""
        found: list[Any] = []
        notes = []
        for name, model in self.models.items():
            try:
                scores = model.similarity(images, captions)
                if not np.isfinite(scores).all():
                    raise BadInput("a similarity is not a number; look for NaN in its weights or use float32")
                found.append(scores.tolist() if as_lists else scores)
            except Exception as error:  # the other models stay usable
                found.append(None)
                notes.append(f"{name}: {error_text(error)}")
        return found, notes

    def _image(self, image: int | str, field: str) -> Any:
        """Return the image with a number, or decode a data URI."""
        if isinstance(image, int):
            if not 0 <= image < len(self._images):
                raise FieldError(field, f"{field} is number {image}, but the page has {len(self._images)} images")
            return self._images[image]
        try:
            return open_image(base64.b64decode(image.partition(",")[2], validate=True))
        except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
            raise FieldError(field, f"{field} is not a readable image: use a PNG, JPEG or WebP file") from error

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
        before, after = (winoground_correct(np.asarray(grid))["group"] for grid in (grids[0], grids[-1]))
        return ("right" if after else "broken") if before else ("fixed" if after else "wrong")

    def view(self) -> View:
        """Return one case as static HTML, a fixed one if there is one, for a notebook without a kernel."""
        fixed = (number for number, grids in sorted(self.scores.items()) if self._kind(grids) == "fixed")
        number = next(fixed, min(self.scores, default=0))
        self._cases({"cases": [number]})
        case, known = self.cases[number], zip(self.models, self.scores[number], strict=True)
        heading = f"Playground, case {number + 1} of {len(self.cases)} (run the cell to use it)"
        if len(self.scores) == len(self.cases):
            heading += ": " + ", ".join(f"{n} {kind}" for kind, n in self.counts().items())
        return winoground_view(case.images, case.captions, {n: grid for n, grid in known if grid}, heading)

    def html(self, endpoint: str = "") -> str:
        """Return a self-contained page. It shows the cases scored so far, and scores new input at `endpoint`, a URL."""
        values = {"state": self._state_and_scores(), "endpoint": endpoint, "css": _asset("css"), "esm": _asset("js")}
        return templates("vladva_kit.widgets").get_template("playground.html.j2").render(**values)

    def _state_and_scores(self) -> dict[str, Any]:
        scores = {str(number): grids for number, grids in self.scores.items()}
        return self.state | {"scores": scores, "matrices": self._matrices}

    @cached_property
    def widget(self) -> Any:
        """The live widget. Raises ImportError that names the package to install."""
        widget = _widget_class()(state=self._state_and_scores())
        widget.on_msg(lambda _, message, __: widget.send(self.handle(message)))
        return widget

    def _ipython_display_(self) -> None:
        display_live_and_static(self._repr_mimebundle_())

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


def _text(text: str, field: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise FieldError(field, f"{field} is empty: type some words")
    return text


def _packed(scores: np.ndarray) -> str:
    return base64.b64encode(scores.astype("<f4").tobytes()).decode()


def _asset(kind: str) -> str:
    return (resources.files("vladva_kit.widgets") / "templates" / f"playground.{kind}").read_text(encoding="utf-8")


@lru_cache
def _widget_class() -> type:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError("the playground needs anywidget: pip install 'vladva-kit[notebooks]'") from error

    class PlaygroundWidget(anywidget.AnyWidget):
        _esm = _asset("js")
        _css = _asset("css")
        state = traitlets.Dict().tag(sync=True)

    return PlaygroundWidget
