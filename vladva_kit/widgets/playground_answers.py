"""Answers of the playground that run an LVLM: likelihoods of the best hits."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vladva_kit.evaluation.encoding import embed_texts
from vladva_kit.models.images import BadInput, ImageLike
from vladva_kit.models.load import LVLM
from vladva_kit.search.rerank import rerank
from vladva_kit.widgets.base import error_text
from vladva_kit.widgets.cached_embedder import CachedEmbedder, model_turn


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


def packed(values: np.ndarray) -> str:
    """Encode an array as float32 in base64: `packed(np.zeros(3))`."""
    return base64.b64encode(np.asarray(values).astype("<f4").tobytes()).decode()


def lvlm_of(model: CachedEmbedder) -> LVLM | None:
    """Return the LVLM of a model; None for a model that only embeds, such as a CLIP."""
    return getattr(model.embedder, "lvlm", None)


def rerank_hits(
    models: Mapping[str, CachedEmbedder],
    text: str,
    hits: Sequence[Sequence[int] | None],
    images: Mapping[str, ImageLike],
) -> dict[str, Any]:
    """Score each model's best hits by a text's likelihood: `rerank_hits(models, "a dog", [[3, 1]], images)["scores"]`.

    hits: for each model, numbers of images, or None; images: by number. A model without an LVLM is re-ranked by the
    first LVLM among the models, with the adapter off. "seconds" has, for each model, those to embed the text and those
    to re-rank. Scores of a model that fails are None, and "notes" has the reason.
    """
    reply: dict[str, Any] = {"scores": [], "seconds": [], "notes": []}
    shared = next((one for one in map(lvlm_of, models.values()) if one is not None), None)
    for (name, model), numbers in zip(models.items(), hits, strict=True):
        scores = seconds = None
        try:
            if shared is None:
                raise BadInput("re-ranking needs an LVLM: pass an Embedder to vk.playground")
            if numbers is not None:
                start = time.perf_counter()
                with model_turn():
                    embed_texts(model.embedder, [text], 1)
                    middle = time.perf_counter()
                    found = rerank(lvlm_of(model) or shared, text, [(0.0, str(number)) for number in numbers], images)
                seconds = [middle - start, time.perf_counter() - middle]
                by_name = {number: score for score, number in found}
                if not np.isfinite(list(by_name.values())).all():
                    raise BadInput("a likelihood is not a number; look for NaN in its weights or use float32")
                scores = [by_name[str(number)] for number in numbers]
        except Exception as error:  # the other models stay usable
            scores = None
            reply["notes"].append(f"{name}: {error_text(error)}")
        reply["scores"].append(scores)
        reply["seconds"].append(seconds if scores else None)
    return reply
