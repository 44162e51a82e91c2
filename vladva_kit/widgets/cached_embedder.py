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
from vladva_kit.evaluation.encoding import ImageSource, ImageTextEncoder, all_dots, embed_images, embed_texts
from vladva_kit.models.turns import ModelLock

STEP_SIZE = 16  # images or captions that one step of background work encodes
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
        self._version = self._weights_version()

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
        return [
            partial(encode, items[start : start + STEP_SIZE])
            for encode, items in ((self.encode_image, images), (self.encode_text, texts))
            for start in range(0, len(items), STEP_SIZE)
        ]

    def _drop_if_trained(self) -> None:
        if (version := self._weights_version()) != self._version:
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

    def _weights_version(self) -> bytes:
        """Sum each adapter tensor: a training step changes the sums; fused optimizers leave no other trace."""
        lvlm = getattr(self.embedder, "lvlm", None)
        if lvlm is None or getattr(self.embedder, "config", None) is None:
            return b""
        weights = (w for name, w in lvlm.model.named_parameters() if "lora_" in name or "modules_to_save" in name)
        return torch.stack([weight.detach().double().sum() for weight in weights]).cpu().numpy().tobytes()


def with_caches(models: Mapping[str, ImageTextEncoder | CachedEmbedder]) -> dict[str, CachedEmbedder]:
    """Wrap each model in a CachedEmbedder, unless it is one: `with_caches({"base": baseline})`.

    Raises ValueError if there is no model.
    """
    if not models:
        raise ValueError("no model given: pass {name: embedder}, for example {'emoji-clip': vk.load_baseline()}")
    return {name: one if isinstance(one, CachedEmbedder) else CachedEmbedder(one) for name, one in models.items()}


def tokenizer_of(models: Mapping[str, CachedEmbedder]) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of the first LVLM among the models; None if there is no LVLM."""
    lvlms = (getattr(model.embedder, "lvlm", None) for model in models.values())
    return next((lvlm.processor.tokenizer for lvlm in lvlms if lvlm is not None), None)
