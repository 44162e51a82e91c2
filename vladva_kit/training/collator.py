"""From pairs to what a step sees: which pairs share a batch, pictures opened, sequences written, captions keyed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from vladva_kit.data.pairs import Pair
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import ModelInputs, append_text_to_images, encode_caption, image_inputs, text_inputs
from vladva_kit.training.features import ImageFeatures
from vladva_kit.training.image_cache import CachedImageFeatures
from vladva_kit.training.losses import caption_keys


@dataclass(frozen=True)
class Batch:
    """What one step sees: pictures with their long captions, short captions, and which rows have a short one."""

    images: ModelInputs
    texts: ModelInputs | None
    paired: Tensor  # (n_texts,) rows of `images` that the texts belong to
    negatives: ModelInputs | None
    keys: Tensor  # (n_texts,) a number for each caption: the same caption on another rank has the same
    negative_keys: Tensor | None  # (n_negatives,)
    features: ImageFeatures | None = None  # in place of pixels, where they are cached


class Collator:
    """Pairs to a `Batch`: opens pictures, writes sequences; pairs that lack one caption serve with the other."""

    def __init__(
        self, embedder: Embedder, next_token: bool = True, pictures: CachedImageFeatures | None = None
    ) -> None:
        self.pictures = pictures
        self.processor = embedder.lvlm.processor
        self.image_prompt, self.text_prompt = embedder.image_prompt, embedder.text_prompt
        self.next_token = next_token

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        tokenizer = self.processor.tokenizer
        longs = [
            [*encode_caption(tokenizer, pair.long), tokenizer.eos_token_id] if self.next_token and pair.long else None
            for pair in pairs
        ]
        features, long_ids = None, longs if any(longs) else None
        if self.pictures is not None:
            made, features = self.pictures.batch(pairs)
            images = append_text_to_images(tokenizer, made, self.image_prompt, long_ids)
        else:
            images = image_inputs(self.processor, [pair.load_image() for pair in pairs], self.image_prompt, long_ids)
        paired = [row for row, pair in enumerate(pairs) if pair.short]
        shorts = [pairs[row].short for row in paired]
        negatives = [text for pair in pairs for text in pair.negatives]
        batch = Batch(
            images,
            text_inputs(tokenizer, shorts, self.text_prompt) if shorts else None,
            torch.tensor(paired, dtype=torch.long),
            text_inputs(tokenizer, negatives, self.text_prompt) if negatives else None,
            caption_keys(shorts),
            caption_keys(negatives) if negatives else None,
            features,
        )
        return {"batch": batch}  # a dictionary, since the Trainer moves and counts dictionaries


class ByLength(Sampler[int]):
    """The order of an epoch in which pairs of like long captions come together; another one each epoch.

        list(ByLength(pairs, batch_size=64, seed=0))    # every number of a pair once

    batch_size is the global batch, so that the order is the same on one process and on many. Fifty batches at a time
    are drawn at random and sorted by length, by transformers' own rule; the longest come first, so that a shortage of
    memory shows at once. The order follows from seed and epoch alone: a resumed run finds it again.
    """

    def __init__(self, pairs: Sequence[Pair], batch_size: int, seed: int) -> None:
        self.lengths = [len(pair.long or "") for pair in pairs]
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch by what prepares the loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
