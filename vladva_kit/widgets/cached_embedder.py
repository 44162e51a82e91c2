"""Embeddings that are made once, and whose turn it is to use the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vladva_kit.evaluation.encoding import ImageTextEncoder, all_dots, embed_images, embed_texts, image_key

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedTokenizerBase

_MODEL = threading.RLock()
_TRAINING = threading.Event()


class ModelBusy(RuntimeError):
    """A model is asked while it is trained."""


@contextmanager
def model_turn() -> Iterator[None]:
    """One user of a model at a time: a baseline switches the adapter off, which a training must not meet.

    Raises ModelBusy while a training runs; a paused one lets others in.
    """
    if _TRAINING.is_set():
        raise ModelBusy("the model is being trained: pause or stop the training, then ask again")
    with _MODEL:
        yield


@contextmanager
def training_turn() -> Iterator[None]:
    """As `model_turn`, for the training itself: whoever asks meanwhile is told so."""
    with _MODEL:
        _TRAINING.set()
        try:
            yield
        finally:
            _TRAINING.clear()


@contextmanager
def training_rests() -> Iterator[None]:
    """Inside a `training_turn`: others may use the model until the block ends."""
    _TRAINING.clear()
    _MODEL.release()
    try:
        yield
    finally:
        _MODEL.acquire()
        _TRAINING.set()


class CachedEmbedder:
    """An embedder that encodes each picture and caption once, so that widgets which share it recompute nothing.

        base = CachedEmbedder(Embedder(lvlm))
        base.similarity(pictures, captions)     # (n_images, n_texts) float32

    What was cached_embedder is forgotten when the embedder has been trained since.
    """

    def __init__(self, embedder: ImageTextEncoder, batch_size: int = 32) -> None:
        self.embedder, self.batch_size = embedder, batch_size
        self._images: dict[Hashable, np.ndarray] = {}
        self._texts: dict[Hashable, np.ndarray] = {}
        self._version = self._weights_version()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The LVLM's own; None for a model that is no LVLM."""
        lvlm = getattr(self.embedder, "lvlm", None)
        return None if lvlm is None else lvlm.processor.tokenizer

    def encode_image(self, images: Sequence[Image.Image | Path | bytes]) -> np.ndarray:
        """Pictures to unit vectors, (n, dim) float32. Raises as the embedder does, or ModelBusy."""
        return self._looked_up(self._images, list(map(image_key, images)), images, embed_images)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Captions to unit vectors, (n, dim) float32. Raises as the embedder does, or ModelBusy."""
        return self._looked_up(self._texts, list(texts), texts, embed_texts)

    def similarity(self, images: Sequence[Image.Image | Path | bytes], texts: Sequence[str]) -> np.ndarray:
        """Cosines (n_images, n_texts) float32 of pictures and captions, not of their embeddings."""
        return all_dots(self.encode_image(images), self.encode_text(texts))

    def knows(self, images: Sequence[Image.Image | Path | bytes], texts: Sequence[str]) -> bool:
        """Whether all these were encoded already, so that asking for them asks the model for nothing."""
        self._forget_if_trained()
        return {*map(image_key, images)} <= self._images.keys() and {*texts} <= self._texts.keys()

    def _forget_if_trained(self) -> None:
        if (version := self._weights_version()) != self._version:
            self._images.clear()
            self._texts.clear()
            self._version = version

    def _looked_up(
        self, known: dict[Hashable, np.ndarray], keys: list[Hashable], things: Sequence[Any], embed: Callable
    ) -> np.ndarray:
        self._forget_if_trained()
        new = {key: thing for key, thing in zip(keys, things, strict=True) if key not in known}
        if new:
            with model_turn():
                vectors = embed(self.embedder, list(new.values()), self.batch_size)
            known.update(zip(new, vectors, strict=True))
        return np.stack([known[key] for key in keys])

    def _weights_version(self) -> bytes:
        """Each learning tensor's sum, which a training step changes; a fused optimizer leaves no other trace."""
        lvlm = getattr(self.embedder, "lvlm", None)
        if lvlm is None or getattr(self.embedder, "record", None) is None:
            return b""
        sums = [weight.detach().double().sum() for name, weight in lvlm.model.named_parameters() if _learns(name)]
        return torch.stack(sums).cpu().numpy().tobytes()


def _learns(name: str) -> bool:
    return "lora_" in name or "modules_to_save" in name


def cached_embedder(
    models: Mapping[str, ImageTextEncoder | CachedEmbedder] | ImageTextEncoder,
) -> dict[str, CachedEmbedder]:
    """Models by name, each with its memory; one that has a memory keeps it: `cached_embedder({"base": baseline})`.

    Raises ValueError for no model.
    """
    models = models if isinstance(models, Mapping) else {"model": models}
    if not models:
        raise ValueError("no model to ask: give {name: embedder}, as {'emoji-clip': vk.load_baseline()}")
    return {
        name: model if isinstance(model, CachedEmbedder) else CachedEmbedder(model) for name, model in models.items()
    }
