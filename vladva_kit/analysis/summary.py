"""What the summary token says and looks at: from the one forward that gives the embedding as well."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vladva_kit.analysis.attention import patch_grid, summary_attention
from vladva_kit.embedder.embedder import Embedder, summary_states
from vladva_kit.embedder.prompts import ModelInputs, image_inputs, text_inputs
from vladva_kit.models.images import open_images

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class SummaryReading:
    """The summary tokens of n pictures or captions, as arrays.

    The paper shows that attention over the picture grows denser and gives no formula; `density` is this kit's: the
    perplexity of the attention within the picture, as a share of its tokens. 1 is evenly over all, near 0 on one.
    """

    embeddings: np.ndarray  # (n, dim) float32, unit length
    entropy: np.ndarray  # (n,) of the next-token distribution, in nats
    words: np.ndarray = field(repr=False)  # (n, k) the tokens it would say, likeliest first
    probabilities: np.ndarray = field(repr=False)  # (n, k) theirs
    attention: np.ndarray | None = field(default=None, repr=False)  # (n, layers, heads, image tokens)
    grid: tuple[int, int] | None = None  # rows and columns of patches, where all these pictures have the same

    @property
    def mass(self) -> np.ndarray:
        """(n, layers, heads) the part of the attention that goes to the picture, 0 to 1."""
        return self._attention().sum(-1)

    @property
    def density(self) -> np.ndarray:
        """(n, layers, heads) over how much of the picture the attention is spread, above 0 to 1."""
        within = self._attention() / np.maximum(self.mass[..., None], 1e-12)
        entropy = -(within * np.log(np.maximum(within, 1e-12))).sum(-1)
        return np.exp(entropy) / within.shape[-1]

    @property
    def maps(self) -> np.ndarray:
        """(n, layers, heads, rows, columns) the attention where it falls; a class token before the patches is left out.

        Raises ValueError where the pictures have different grids, or the family cuts a picture into tiles.
        """
        attention = self._attention()
        if self.grid is None:
            raise ValueError(
                f"{attention.shape[-1]} image tokens that are no one grid of patches: read one picture at a time; "
                "where the family cuts a picture into tiles, `attention` has the tokens in its own order"
            )
        rows, columns = self.grid
        return attention[..., attention.shape[-1] - rows * columns :].reshape(*attention.shape[:-1], rows, columns)

    def _attention(self) -> np.ndarray:
        if self.attention is None:
            raise ValueError("no attention was read: call read_images(…, attention=True)")
        return self.attention


def read_images(
    embedder: Embedder,
    images: Sequence[Image.Image | Path | str],
    attention: bool = False,
    k: int = 10,
    batch_size: int = 64,
) -> SummaryReading:
    """Embeddings, entropy, likeliest words and, on request, attention of pictures: one forward for all of it.

        read_images(embedder, pictures, attention=True).density.mean()
        with embedder.base(): read_images(embedder, pictures)          # the same before training

    Raises ValueError for no pictures, and with `attention` for pictures of unequal numbers of tokens.
    """
    batches = (
        image_inputs(
            embedder.lvlm.processor,
            open_images(images[start : start + batch_size], start),
            embedder.image_prompt,
        )
        for start in range(0, len(images), batch_size)
    )
    return _joined([_read(embedder, sequences, k, attention) for sequences in batches])


def read_texts(embedder: Embedder, texts: Sequence[str], k: int = 10, batch_size: int = 256) -> SummaryReading:
    """As `read_images`, for captions, without attention: `read_texts(embedder, ["a dog"]).words[0]`."""
    batches = (
        text_inputs(embedder.lvlm.processor.tokenizer, texts[start : start + batch_size], embedder.text_prompt)
        for start in range(0, len(texts), batch_size)
    )
    return _joined([_read(embedder, sequences, k, attention=False) for sequences in batches])


def _read(embedder: Embedder, sequences: ModelInputs, k: int, attention: bool) -> SummaryReading:
    lvlm, sequences = embedder.lvlm, sequences.to(embedder.device)
    image = sequences.inputs["input_ids"] == lvlm.model.config.image_token_id
    recording = summary_attention(lvlm, sequences.summary, image) if attention else nullcontext([])
    with embedder._running(), recording as layers:
        states = summary_states(embedder.hidden_states(sequences), sequences)
        # the head meets one state a row, never the whole sequence
        logits = lvlm.model.get_output_embeddings()(states).float()
    log_probabilities = logits.log_softmax(-1)
    top = log_probabilities.topk(k, dim=-1)
    entropy = -(log_probabilities.exp() * log_probabilities.clamp(min=-1e4)).sum(-1)
    return SummaryReading(
        embeddings=_array(torch.nn.functional.normalize(states.float(), dim=-1)),
        entropy=_array(entropy),
        words=_words(embedder, top.indices),
        probabilities=_array(top.values.exp()),
        attention=_array(torch.stack(layers, dim=1)) if attention else None,
        grid=patch_grid(lvlm, sequences.inputs, int(image[0].sum())) if attention else None,
    )


def _words(embedder: Embedder, ids: Tensor) -> np.ndarray:
    """(n, k) token ids as they read."""
    tokenizer = embedder.lvlm.processor.tokenizer
    return np.array([[tokenizer.decode([number]).strip() for number in row] for row in ids.tolist()])


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _joined(parts: list[SummaryReading]) -> SummaryReading:
    if not parts:
        raise ValueError("nothing to read: give at least one picture or caption")
    names = ("embeddings", "entropy", "words", "probabilities")
    attention = None if parts[0].attention is None else np.concatenate([part.attention for part in parts])
    return SummaryReading(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
        attention=attention,
        grid=parts[0].grid if len({part.grid for part in parts}) == 1 else None,
    )
