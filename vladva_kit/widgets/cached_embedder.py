"""Embed each image and caption once, and let one user at a time run a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from vladva_kit.embedder.identity import image_key
from vladva_kit.evaluation.encoding import (
    EncoderOrScorer,
    ImageSource,
    ImageTextEncoder,
    PairScorer,
    all_dots,
    embed_images,
    embed_texts,
)
from vladva_kit.models.images import open_image
from vladva_kit.models.turns import ModelLock

STEP_SIZE = 16  # images or captions that one step of background work encodes
MAX_SCORES = 64  # of a scorer at once
_TRAINING = threading.Event()


class ModelBusy(RuntimeError):
    """Raised when a model is used while it is being trained."""


@contextmanager
def model_turn() -> Iterator[None]:
    """Raise ModelBusy while a dashboard trains: an answer would wait for steps and come from weights in between.

    A paused training lets others use the model; the LVLM's own lock keeps threads apart.
    """
    if _TRAINING.is_set():
        raise ModelBusy("the model is being trained: pause or stop the training, then try again")
    yield


@contextmanager
def training_turn() -> Iterator[None]:
    """Within the block, `model_turn` raises ModelBusy."""
    _TRAINING.set()
    try:
        yield
    finally:
        _TRAINING.clear()


@contextmanager
def training_paused(lock: ModelLock | None = None) -> Iterator[None]:
    """Within a `training_turn` that holds the LVLM's lock, let others use the model until the block ends."""
    _TRAINING.clear()
    try:
        with nullcontext() if lock is None else lock.released():
            yield
    finally:
        _TRAINING.set()


class CachedEmbedder:
    """Wrap an embedder so that it encodes each image and caption once; widgets that share it recompute nothing.

        base = CachedEmbedder(Embedder(lvlm))
        base.similarity(images, captions)     # (n_images, n_texts) float32

    The cache is dropped when the embedder's adapter has been trained further. Inside `with embedder.base():` it returns
    the base's embeddings.
    """

    def __init__(self, embedder: ImageTextEncoder, batch_size: int = 32) -> None:
        self.embedder, self.batch_size = embedder, batch_size
        self._images: dict[Hashable, np.ndarray] = {}
        self._texts: dict[Hashable, np.ndarray] = {}
        self._version = _weights_version(embedder)

    def encode_image(self, images: Sequence[ImageSource]) -> np.ndarray:
        """Return unit vectors (n, dim) float32 of images. Raises what the embedder raises, or ModelBusy."""
        with self._lock():
            return self._look_up(self._images, self._keys(map(image_key, images)), images, embed_images)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, dim) float32 of captions. Raises what the embedder raises, or ModelBusy."""
        with self._lock():
            return self._look_up(self._texts, self._keys(texts), texts, embed_texts)

    def similarity(self, images: Sequence[ImageSource], texts: Sequence[str]) -> np.ndarray:
        """Return cosines (n_images, n_texts) float32 of images and captions."""
        return all_dots(self.encode_image(images), self.encode_text(texts))

    def has(self, images: Sequence[ImageSource], texts: Sequence[str]) -> bool:
        """Return whether all of these are cached, so that their similarity needs no forward pass."""
        self._drop_if_trained()
        images_known = {*self._keys(map(image_key, images))} <= self._images.keys()
        return images_known and {*self._keys(texts)} <= self._texts.keys()

    def _lock(self) -> AbstractContextManager:
        """Keep other threads from switching the adapter between the keys and the forward pass."""
        lvlm = getattr(self.embedder, "lvlm", None)
        return nullcontext() if lvlm is None else lvlm.lock

    def _keys(self, contents: Iterable[str]) -> list[Hashable]:
        """Combine keys of contents with what `with embedder.base():` changes: the prompts, and the adapter's use."""
        prompts = (getattr(self.embedder, name, None) for name in ("image_prompt", "text_prompt"))
        state = (getattr(self.embedder, "adapted", None), *prompts)
        return [(state, content) for content in contents]

    def encoding_steps(self, images: Sequence[ImageSource], texts: Sequence[str]) -> list[Callable[[], np.ndarray]]:
        """Return functions that fill the cache, `STEP_SIZE` items each: `BackgroundTask().start(steps, ...)`."""
        both: tuple[tuple[Callable, Sequence], ...] = (self.encode_image, images), (self.encode_text, texts)
        return [
            partial(encode, items[start : start + STEP_SIZE])
            for encode, items in both
            for start in range(0, len(items), STEP_SIZE)
        ]

    def case_steps(self, cases: Sequence[tuple[Sequence[ImageSource], Sequence[str]]]) -> list[Callable]:
        """Return functions that make the similarities of cases, (images, captions) each, known."""
        images, texts = [image for case in cases for image in case[0]], [text for case in cases for text in case[1]]
        return self.encoding_steps(images, texts)

    def _drop_if_trained(self) -> None:
        if (version := _weights_version(self.embedder)) != self._version:
            self._images.clear()
            self._texts.clear()
            self._version = version

    def _look_up(
        self, cache: dict[Hashable, np.ndarray], keys: list[Hashable], items: Sequence[Any], embed: Callable
    ) -> np.ndarray:
        self._drop_if_trained()
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in cache}
        if new:
            with model_turn():
                vectors = embed(self.embedder, list(new.values()), self.batch_size)
            cache.update(zip(new, vectors, strict=True))
        return np.stack([cache[key] for key in keys])


class CachedScorer:
    """Wrap a scorer of pairs so that it scores each image with each caption once, in place of a CachedEmbedder.

        asked = CachedScorer(vk.LikelihoodScorer(lvlm))
        asked.similarity(images, captions)     # (n_images, n_texts) float32

    Each score needs a forward pass, so more than MAX_SCORES new ones at once are refused with a ValueError.
    """

    def __init__(self, scorer: PairScorer) -> None:
        self.embedder = scorer  # the name that widgets use for what they compare
        self._scores: dict[Hashable, float] = {}

    def similarity(self, images: Sequence[ImageSource], texts: Sequence[str]) -> np.ndarray:
        """Return scores (n_images, n_texts) float32 of images and captions. Raises what the scorer raises."""
        keys = self._keys(images, texts)
        new = [[key not in self._scores for key in row] for row in keys]
        rows, columns = (
            [i for i, some in enumerate(lines) if any(some)] for lines in (new, list(zip(*new, strict=True)))
        )
        if len(rows) * len(columns) > MAX_SCORES:
            raise ValueError(
                f"{len(rows)} images x {len(columns)} captions: a scorer needs a forward pass for each pair, and a "
                f"widget computes at most {MAX_SCORES} at once; search with embeddings, then use vk.rerank"
            )
        if rows:
            with model_turn():
                chosen = [open_image(images[row]) for row in rows], [texts[column] for column in columns]
                scores = np.asarray(self.embedder.similarity(*chosen), dtype=np.float32)
            for row, values in zip(rows, scores, strict=True):
                self._scores |= {keys[row][column]: value for column, value in zip(columns, values, strict=True)}
        return np.array([[self._scores[key] for key in row] for row in keys], dtype=np.float32)

    def encode_image(self, images: Sequence[ImageSource]) -> np.ndarray:
        """Raise ValueError, since a scorer has no embeddings."""
        raise ValueError(f"a {type(self.embedder).__name__} scores pairs and has no embeddings: leave it out here")

    encode_text = encode_image

    def has(self, images: Sequence[ImageSource], texts: Sequence[str]) -> bool:
        """Return whether all these scores are known."""
        return all(key in self._scores for row in self._keys(images, texts) for key in row)

    def encoding_steps(self, images: Sequence[ImageSource], texts: Sequence[str]) -> list[Callable]:
        """Return one function that scores all images with all captions."""
        return [partial(self.similarity, images, texts)]

    def case_steps(self, cases: Sequence[tuple[Sequence[ImageSource], Sequence[str]]]) -> list[Callable]:
        """Return one function per case, (images, captions) each, that scores it."""
        return [partial(self.similarity, *case) for case in cases]

    def _keys(self, images: Sequence[ImageSource], texts: Sequence[str]) -> list[list[Hashable]]:
        model = getattr(self.embedder, "model", None)
        state = _weights_version(model), getattr(model, "adapted", None)
        return [[(state, key, text) for text in texts] for key in map(image_key, images)]


Cached = CachedEmbedder | CachedScorer


def _weights_version(embedder: Any) -> bytes:
    """Sum each adapter tensor: a training step changes the sums; fused optimizers leave no other trace."""
    lvlm = getattr(embedder, "lvlm", None)
    if lvlm is None or getattr(embedder, "config", None) is None:
        return b""
    weights = (w for name, w in lvlm.model.named_parameters() if "lora_" in name or "modules_to_save" in name)
    return torch.stack([weight.detach().double().sum() for weight in weights]).cpu().numpy().tobytes()


def with_caches(models: Mapping[str, EncoderOrScorer | Cached]) -> dict[str, Cached]:
    """Wrap each model in a CachedEmbedder or CachedScorer, unless it is one: `with_caches({"base": baseline})`.

    Raises ValueError if there is no model, and TypeError for a model that neither embeds nor scores.
    """
    if not models:
        raise ValueError("no model given: pass {name: embedder}, for example {'emoji-clip': vk.load_baseline()}")
    return {name: one if isinstance(one, Cached) else _with_cache(name, one) for name, one in models.items()}


def _with_cache(name: str, model: Any) -> Cached:
    if hasattr(model, "encode_image"):
        return CachedEmbedder(model)
    if hasattr(model, "score_pairs"):
        return CachedScorer(model)
    raise TypeError(f"{name}: no encode_image() and no score_pairs(); pass an Embedder, a CLIP or a LikelihoodScorer")


def tokenizer_of(models: Mapping[str, Cached]) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of the first LVLM among the models; None if there is no LVLM."""
    lvlms = (getattr(model.embedder, "lvlm", None) for model in models.values())
    return next((lvlm.processor.tokenizer for lvlm in lvlms if lvlm is not None), None)
