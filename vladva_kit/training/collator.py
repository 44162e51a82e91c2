"""Turn pairs into training batches: open images, build token sequences, hash captions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from vladva_kit.data.hard_batches import HardBatches, caption_keys, image_keys
from vladva_kit.data.pairs import Pair, sample_caption
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import (
    ModelInputs,
    append_text_to_images,
    encode_captions,
    image_inputs,
    text_inputs,
)
from vladva_kit.training.distillation import BatchScores, TeacherScores
from vladva_kit.training.features import ImageFeatures
from vladva_kit.training.image_cache import CachedImageFeatures


@dataclass(frozen=True)
class Batch:
    """The input of one step: images with their long captions, short captions, and which images have a short one."""

    images: ModelInputs
    texts: ModelInputs | None
    paired: Tensor  # (n_texts,) rows of `images` that the texts belong to
    negatives: ModelInputs | None
    keys: Tensor  # (n_texts, 2) keys of caption and image, equal on all ranks for equal captions and images
    negative_keys: Tensor | None  # (n_negatives,)
    features: ImageFeatures | None = None  # in place of pixels, if they are cached
    teacher: BatchScores | None = None  # scores of the paired images' candidates, if they are distilled
    names: tuple[str, ...] = ()  # where each pair is from, for error messages


class Collator:
    """Turn pairs into a `Batch`; a pair that lacks one caption contributes the other.

    Collator(embedder)(pairs)["batch"].texts
    """

    def __init__(
        self,
        embedder: Embedder,
        next_token: bool = True,
        image_features: CachedImageFeatures | None = None,
        teacher: TeacherScores | None = None,
    ) -> None:
        self.image_features, self.teacher = image_features, teacher
        self.processor = embedder.lvlm.processor
        self.image_prompt, self.text_prompt = embedder.image_prompt, embedder.text_prompt
        self.next_token = next_token

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        tokenizer = self.processor.tokenizer
        paired = [row for row, pair in enumerate(pairs) if pair.short]
        shorts = [pairs[row].short or "" for row in paired]
        negatives = [text for pair in pairs for text in pair.negatives]
        longs = [pair.long for pair in pairs if self.next_token and pair.long]
        ids = encode_captions(tokenizer, [*shorts, *negatives, *longs])  # one call of the tokenizer
        n_shorts, n_texts = len(shorts), len(shorts) + len(negatives)
        next_long = iter(ids[n_texts:])
        long_ids = [
            [*next(next_long), tokenizer.eos_token_id] if self.next_token and pair.long else None for pair in pairs
        ]
        features, captions = None, long_ids if longs else None
        if self.image_features is not None:
            cached_inputs, features = self.image_features.batch(pairs)
            images = append_text_to_images(tokenizer, cached_inputs, self.image_prompt, captions)
        else:
            images = image_inputs(self.processor, [pair.load_image() for pair in pairs], self.image_prompt, captions)
        keys = torch.stack([caption_keys(shorts), image_keys([pairs[row] for row in paired])], dim=1)
        batch = Batch(
            images,
            text_inputs(tokenizer, ids[:n_shorts], self.text_prompt) if shorts else None,
            torch.tensor(paired, dtype=torch.long),
            text_inputs(tokenizer, ids[n_shorts:n_texts], self.text_prompt) if negatives else None,
            keys,
            caption_keys(negatives) if negatives else None,
            features,
            None if self.teacher is None else self.teacher.of_batch(keys),
            tuple(pair.where or str(pair.image if isinstance(pair.image, Path) else pair.short) for pair in pairs),
        )
        return {"batch": batch}  # a dict, since the Trainer moves and counts dicts


class SampledCaptions(Dataset, TrainerCallback):
    """Pairs with one of their short captions, sampled anew in each epoch; it is itself the Trainer's callback.

        SampledCaptions(pairs, seed=0)[17].short

    The choice depends on seed, epoch and index only, so all ranks agree and a resumed run repeats it.
    """

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        self.pairs, self.seed, self.epoch = pairs, seed, 0

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the epoch; of a run that resumes within an epoch, it is that one."""
        self.epoch = int((state.epoch or 0) + 1e-6)  # a sum of fractions

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return sample_caption(self.pairs[index], f"{self.seed} {self.epoch} {index}")


def planned_batches(pairs: Sequence[Pair] | SampledCaptions, sampler: HardBatches, steps: int) -> Iterator[list[Pair]]:
    """Yield the batches of a run's first steps: `next(planned_batches(pairs, sampler, 80))[0].short`."""

    def batches() -> Iterator[list[Pair]]:
        planned, drawn, size = copy.copy(sampler), copy.copy(pairs), sampler.batch_size
        for epoch in count():
            planned.set_epoch(epoch)
            if isinstance(drawn, SampledCaptions):
                drawn.epoch = epoch
            order = list(planned)
            for start in range(0, len(order), size):
                yield [drawn[index] for index in order[start : start + size]]

    return islice(batches(), steps)


class ByLength(Sampler[int]):
    """Order an epoch so that pairs with long captions of similar length share a batch; each epoch differs.

        list(ByLength(pairs, batch_size=64, seed=0))    # every index once

    batch_size is the global batch, so the order is the same on one process and on many. Groups of fifty batches are
    sampled at random and sorted by length, by transformers' own rule; the longest come first, so that a memory shortage
    shows at once. The order depends only on seed and epoch, so a resumed run repeats it.
    """

    def __init__(self, pairs: Sequence[Pair], batch_size: int, seed: int) -> None:
        self.lengths = [len(pair.long or "") for pair in pairs]
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the loader calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
