"""Words: those that a soft prompt's rows lie nearest to, and those that a caption's score hangs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional as F

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import image_prompt, text_prompt

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class NearestWords:
    """What a prompt's rows read as, beside the hand-written tokens that they began as."""

    hand_written: tuple[str, ...]  # (rows,)
    words: np.ndarray  # (rows, k) nearest first
    cosines: np.ndarray  # (rows, k)

    @property
    def unchanged(self) -> float:
        """The part of the rows whose nearest word is still the hand-written one, 0 to 1."""
        return float(np.mean(self.words[:, 0] == np.array(self.hand_written)))


@dataclass(frozen=True)
class WordWeights:
    """A caption's score, and what it is without each of its words."""

    words: tuple[str, ...]
    score: float  # cosine of picture and caption
    without: np.ndarray  # (words,) cosine of picture and caption with that word left out

    @property
    def weights(self) -> np.ndarray:
        """(words,) by how much the score falls when the word is left out; negative where it rises."""
        return self.score - self.without


def nearest_words(embedder: Embedder, prompt: Literal["image", "text"] = "image", k: int = 5) -> NearestWords:
    """The vocabulary's words nearest, by cosine, to each row of a prompt, as the LLM reads it.

        nearest_words(embedder, "text").words[:, 0]      # the soft prompt, read as words

    For a baseline the rows are the words themselves. Raises KeyError for a prompt that is neither image nor text.
    """
    lvlm = embedder.lvlm
    own = {"image": embedder.image_prompt, "text": embedder.text_prompt}[prompt]
    written = {"image": image_prompt, "text": text_prompt}[prompt](lvlm.processor, own.words)
    embedding = lvlm.model.get_input_embeddings()
    with embedder._running():
        rows = embedding(torch.tensor([own.ids], device=embedder.device))[0].float()
        cosines = F.normalize(rows, dim=-1) @ F.normalize(embedding.weight.float(), dim=-1).T
    top = cosines.topk(k, dim=-1)
    words = [[_word(embedder, number) for number in row] for row in top.indices.tolist()]
    hand_written = tuple(_word(embedder, number) for number in written.ids)
    return NearestWords(hand_written, np.array(words), top.values.cpu().numpy())


def _word(embedder: Embedder, number: int) -> str:
    return embedder.lvlm.processor.tokenizer.decode([number]).strip()


def leave_one_word_out(embedder: Embedder, image: Image.Image | Path | str, caption: str) -> WordWeights:
    """How much of a caption's score hangs on each word: the picture runs once, all shortened captions in one batch.

        leave_one_word_out(embedder, picture, "a blue dog above a cat").weights

    Raises ValueError for a caption of one word, without which nothing is left to score.
    """
    words = tuple(caption.split())
    if len(words) < 2:
        raise ValueError(f"the caption {caption!r} has {len(words)} words: leaving one out needs at least 2")
    shortened = [" ".join(words[:place] + words[place + 1 :]) for place in range(len(words))]
    texts = embedder.encode_text([" ".join(words), *shortened])
    scores = embedder.similarity(embedder.encode_image([image]), texts)[0].double().numpy()
    return WordWeights(words, float(scores[0]), scores[1:])
