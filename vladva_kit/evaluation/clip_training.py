"""Fine-tune a CLIP on the same batches as an LVLM: the baseline that shows what the LVLM adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import get_cosine_schedule_with_warmup

from vladva_kit.data.hard_batches import HardBatches
from vladva_kit.data.pairs import Pair
from vladva_kit.evaluation.baselines import ClipEmbedder
from vladva_kit.training.collator import SampledCaptions
from vladva_kit.training.losses import contrastive_loss, same_caption_mask
from vladva_kit.training.progress import VALIDATION


def fit_clip(
    clip: ClipEmbedder,
    pairs: Sequence[Pair],
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    warmup: int = 10,
    weight_decay: float = 0.05,
    seed: int = 0,
    sampler: HardBatches | None = None,
    validate: Callable[[ClipEmbedder], dict[str, float]] | None = None,
    validate_every: int = 10,
) -> list[dict[str, float]]:
    """Train all weights of a CLIP on images and short captions; return the history, one dict per step.

        fit_clip(clip, load_pairs(sample("emoji_pairs")), steps=100)[-1]["accuracy"]

    sampler: `training.batches.batch_sampler(embedder, pairs, settings)` gives the CLIP the batches that `fit` gives an
    LVLM; by default batches are random. Of several short captions, each epoch uses the one that `fit` does. Uses
    AdamW, a cosine schedule, gradients clipped at norm 1, and CLIP's own temperature. Images are decoded once and kept.
    validate: a function from the CLIP to metrics, which are in the history as "eval_…" every `validate_every` steps.
    Raises ValueError for a pair without a short caption, or for fewer pairs than one batch.
    """
    missing = next((index for index, pair in enumerate(pairs) if not pair.short), None)
    if missing is not None:
        raise ValueError(f"pair {missing} has no short caption: CLIP is trained on images and short captions")
    if len(pairs) < batch_size:
        raise ValueError(f"{len(pairs)} pairs do not fill a batch of {batch_size}: add pairs or lower batch_size")
    rows = {"groups": 0, "mined": 0, "random": batch_size}
    sampler = sampler or HardBatches(len(pairs), rows, seed=seed)
    optimizer = torch.optim.AdamW(clip.model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    pixels: dict[int, Tensor] = {}
    captions = SampledCaptions(pairs, seed)
    history: list[dict[str, float]] = []
    clip.model.train()
    try:
        for step, batch in zip(range(1, steps + 1), _batches(sampler), strict=False):
            images = torch.stack([_pixels(clip, pairs, index, pixels) for index in batch])
            captions.epoch = sampler.epoch
            loss, accuracy = clip_loss(clip, images, [captions[index].short or "" for index in batch])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(clip.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            history.append({"step": step, "contrastive": float(loss.detach()), "accuracy": float(accuracy)})
            if validate is not None and step % validate_every == 0:
                clip.model.eval()
                history[-1] |= {f"{VALIDATION}{name}": value for name, value in validate(clip).items()}
                clip.model.train()
    finally:
        clip.model.eval()
    return history


def clip_loss(clip: ClipEmbedder, pixels: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss and the in-batch accuracy (0 to 1). Identical captions are not negatives.

    clip_loss(clip, pixels, ["a dog", "a cat"])    # pixels: (batch, 3, height, width), from clip.image_processor
    """
    max_length = clip.model.config.text_config.max_position_embeddings
    ids = clip.tokenizer(list(captions), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    features = clip.model.get_image_features(pixel_values=pixels.to(clip.model.device)).pooler_output
    images = F.normalize(features, dim=-1)
    texts = F.normalize(clip.model.get_text_features(**ids.to(clip.model.device)).pooler_output, dim=-1)
    scale = clip.model.logit_scale.exp().clamp(max=100)
    return contrastive_loss(images, texts, lambda cosines: cosines * scale, same_caption_mask(captions))


def _pixels(clip: ClipEmbedder, pairs: Sequence[Pair], index: int, cache: dict[int, Tensor]) -> Tensor:
    if index not in cache:
        cache[index] = clip.image_processor([pairs[index].load_image()], return_tensors="pt")["pixel_values"][0]
    return cache[index]


def _batches(sampler: HardBatches) -> Iterator[list[int]]:
    """Yield a sampler's batches epoch by epoch, as the Trainer's loader does."""
    for epoch in count():
        sampler.set_epoch(epoch)
        order, size = list(sampler), sampler.batch_size
        yield from (order[start : start + size] for start in range(0, len(order), size))
