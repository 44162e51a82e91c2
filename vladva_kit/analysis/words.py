"""Prompts and captions token by token: the tokens nearest to a prompt, and the importance of each caption word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from vladva_kit.embedder.adapter import hand_written_prompts
from vladva_kit.embedder.embedder import Embedder


@dataclass(frozen=True)
class NearestTokens:
    """The vocabulary tokens nearest to each of a prompt's n embeddings."""

    hand_written: tuple[str, ...]  # (n,) tokens that the embeddings were initialized from
    tokens: np.ndarray  # (n, k) nearest first
    cosines: np.ndarray  # (n, k)

    @property
    def unchanged(self) -> float:
        """Share of the embeddings whose nearest token is still the hand-written one, 0 to 1."""
        return float(np.mean(self.tokens[:, 0] == np.array(self.hand_written)))


@dataclass(frozen=True)
class WordImportance:
    """A caption's score, and its score without each word."""

    words: tuple[str, ...]
    score: float  # cosine of image and caption
    without: np.ndarray  # (words,) cosine of image and caption without that word

    @property
    def importance(self) -> np.ndarray:
        """Drop of the score when the word is removed, negative if the score rises: (words,)."""
        return self.score - self.without


def nearest_tokens(embedder: Embedder, prompt: Literal["image", "text"] = "image", k: int = 5) -> NearestTokens:
    """Find the k vocabulary tokens nearest, by cosine, to each embedding of a prompt.

        nearest_tokens(embedder, "text").tokens[:, 0]      # the soft prompt as words

    Without a soft prompt the embeddings are the hand-written tokens themselves. Raises KeyError for another prompt.
    """
    lvlm = embedder.lvlm
    hand_written = hand_written_prompts(lvlm, embedder.image_prompt.words, embedder.text_prompt.words)
    current, initial = {
        "image": (embedder.image_prompt, hand_written[0]),
        "text": (embedder.text_prompt, hand_written[1]),
    }[prompt]
    embedding = lvlm.embedding
    with embedder.inference():
        vectors = embedding(torch.tensor([current.ids], device=embedder.device))[0].float()
        cosines = F.normalize(vectors, dim=-1) @ F.normalize(embedding.weight.float(), dim=-1).T
    top = cosines.topk(k, dim=-1)
    words = [_decode(embedder, row) for row in top.indices.tolist()]
    return NearestTokens(tuple(_decode(embedder, initial.ids)), np.array(words), top.values.cpu().numpy())


def _decode(embedder: Embedder, ids: list[int] | tuple[int, ...]) -> list[str]:
    return [embedder.lvlm.processor.tokenizer.decode([token]).strip() for token in ids]


def word_importance(embedder: Embedder, image: Image.Image | Path | str, caption: str) -> WordImportance:
    """Score a caption without each of its words; the image is encoded once and all captions in one batch.

        word_importance(embedder, image, "a blue dog above a cat").importance

    Raises ValueError for a caption of fewer than two words.
    """
    words = tuple(caption.split())
    if len(words) < 2:
        raise ValueError(f"caption {caption!r} has {len(words)} words: removing one needs at least 2")
    shortened = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    texts = embedder.encode_text([" ".join(words), *shortened])
    scores = embedder.similarity(embedder.encode_image([image]), texts)[0].double().numpy()
    return WordImportance(words, float(scores[0]), scores[1:])
