"""Answers of the playground that run an LVLM: likelihoods of the best hits, attention, and chats."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np

from vladva_kit.analysis import encoder_crop, probe_images
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import SHORT_REQUEST
from vladva_kit.evaluation.encoding import embed_texts
from vladva_kit.models.images import BadInput, ImageLike, open_image
from vladva_kit.models.load import LVLM
from vladva_kit.plots.style import image_uri
from vladva_kit.search.rerank import rerank
from vladva_kit.widgets.base import error_text
from vladva_kit.widgets.cached_embedder import Cached, CachedEmbedder, model_turn

QUESTIONS = (SHORT_REQUEST, "what is in the picture?", "how many things are there?", "is there a dog?")  # examples
MAX_NEW_TOKENS = 64  # of an answer
SIDE = 448  # pixels of the image below the attention


class FieldError(ValueError):
    """An error of one field, which the page shows below that field."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def text_in(text: Any, field: str) -> str:
    """Return a typed text: `text_in("a dog", "caption 1")`. Raises FieldError if it is empty."""
    if not isinstance(text, str) or not text.strip():
        raise FieldError(field, f"{field} is empty: type some words")
    return text


def image_in(image: int | str, field: str, images: Sequence[ImageLike]) -> ImageLike:
    """Return the image with a number, or decode a data URI: `image_in(0, "image 1", images)`. Raises FieldError."""
    if isinstance(image, int):
        if not 0 <= image < len(images):
            raise FieldError(field, f"{field} is number {image}, but the page has {len(images)} images")
        return images[image]
    try:
        return open_image(base64.b64decode(image.partition(",")[2], validate=True))
    except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
        raise FieldError(field, f"{field} is not a readable image: use a PNG, JPEG or WebP file") from error


def packed(values: np.ndarray) -> str:
    """Encode an array as float32 in base64: `packed(np.zeros(3))`."""
    return base64.b64encode(np.asarray(values).astype("<f4").tobytes()).decode()


def lvlm_of(model: Cached) -> LVLM | None:
    """Return the LVLM of a model; None for a model that only embeds, such as a CLIP."""
    return getattr(model.embedder, "lvlm", None)


def ask_each(models: Mapping[str, Cached], ask: Callable[[Any], Any]) -> tuple[list[Any], list[str]]:
    """Return what `ask` returns for each model, None for a model that fails, and why: `ask_each(models, embed)`."""
    found: list[Any] = []
    notes = []
    for name, model in models.items():
        try:
            found.append(ask(model))
        except Exception as error:  # the other models stay usable
            found.append(None)
            notes.append(f"{name}: {error_text(error)}")
    return found, notes


def rerank_hits(
    models: Mapping[str, Cached],
    text: str,
    hits: Sequence[Sequence[int] | None],
    images: Mapping[str, ImageLike],
) -> dict[str, Any]:
    """Score each model's best hits by a text's likelihood: `rerank_hits(models, "a dog", [[3, 1]], images)["scores"]`.

    hits: for each model, numbers of images, or None; images: by number. A model without an LVLM is re-ranked by the
    first LVLM among the models, with the adapter off. "seconds" has, for each model, those to embed the text and those
    to re-rank. Scores of a model that fails are None, and "notes" has the reason.
    """
    shared = next((one for one in map(lvlm_of, models.values()) if one is not None), None)
    left = iter(hits)

    def score(model: CachedEmbedder) -> tuple[list[float], list[float]] | None:
        wanted = next(left)
        if shared is None:
            raise BadInput("re-ranking needs an LVLM: pass an Embedder to vk.playground")
        if wanted is None:
            return None
        start = time.perf_counter()
        with model_turn():
            embed_texts(model.embedder, [text], 1)
            middle = time.perf_counter()
            found = rerank(lvlm_of(model) or shared, text, [(0.0, str(number)) for number in wanted], images)
        seconds = [middle - start, time.perf_counter() - middle]
        by_name = {name: score for score, name in found}
        if not np.isfinite(list(by_name.values())).all():
            raise BadInput("a likelihood is not a number; look for NaN in its weights or use float32")
        return [by_name[str(number)] for number in wanted], seconds

    found, notes = ask_each(models, score)
    return {"scores": [one and one[0] for one in found], "seconds": [one and one[1] for one in found], "notes": notes}


def read_attention(models: Mapping[str, Cached], image: ImageLike) -> dict[str, Any]:
    """Return the summary token's attention on an image, for each LVLM: `read_attention(models, image)["maps"]`.

    Each map has "shape" (layers, heads, rows, columns), "values" as fractions of the attention, and "image", the part
    that the image encoder sees. It is None for other models and for one that fails; "notes" has the reason.
    """

    def read(model: CachedEmbedder) -> dict[str, Any] | None:
        lvlm = lvlm_of(model)
        if lvlm is None:
            return None
        with model_turn():
            maps = probe_images(cast(Embedder, model.embedder), [image], attention=True, k=1).maps[0]
        if not np.isfinite(maps).all():
            raise BadInput("an attention weight is not a number; look for NaN in its weights or use float32")
        return {"shape": list(maps.shape), "values": packed(maps), "image": image_uri(encoder_crop(lvlm, image), SIDE)}

    found, notes = ask_each(models, read)
    return {"maps": found, "notes": notes}


def answer(
    model: CachedEmbedder, image: ImageLike, question: str, turns: Sequence[tuple[str, str]], adapter: bool
) -> str:
    """Answer a question about an image, after earlier turns: `answer(model, image, "is there a dog?", [], True)`.

    Without `adapter` the LVLM answers as it was before the fine-tune. Raises BadInput for a model without an LVLM.
    """
    if lvlm_of(model) is None:
        raise BadInput("this model cannot answer: choose an LVLM")
    embedder = cast(Embedder, model.embedder)
    with model_turn(), nullcontext() if adapter else embedder.base():
        return embedder.generate(image, question, [(asked, answer) for asked, answer in turns], MAX_NEW_TOKENS)
