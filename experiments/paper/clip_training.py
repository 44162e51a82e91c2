"""Fine-tune a CLIP with the plain contrastive loss: the baseline for a fine-tuned LVLM."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import get_cosine_schedule_with_warmup

from vladva_kit.data.pairs import Pair
from vladva_kit.evaluation.baselines import ClipEmbedder
from vladva_kit.training.losses import contrastive_loss, same_caption_mask


def fit_clip(
    clip: ClipEmbedder,
    pairs: Sequence[Pair],
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    warmup: int = 10,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train all weights of a CLIP on images and short captions; return the history, one dict per step.

        fit_clip(clip, load_pairs(sample("emoji_pairs")), steps=100)[-1]["accuracy"]

    Uses AdamW, a cosine schedule, gradients clipped at norm 1, and CLIP's own temperature. Raises ValueError for a pair
    without a short caption, or for fewer pairs than one batch.
    """
    missing = next((index for index, pair in enumerate(pairs) if not pair.short), None)
    if missing is not None:
        raise ValueError(f"pair {missing} has no short caption: CLIP is trained on images and short captions")
    if len(pairs) < batch_size:
        raise ValueError(f"{len(pairs)} pairs do not fill a batch of {batch_size}: add pairs or lower batch_size")
    optimizer = torch.optim.AdamW(clip.model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    history: list[dict[str, float]] = []
    clip.model.train()
    try:
        for step, batch in enumerate(_batches(pairs, steps, batch_size, seed), start=1):
            loss, accuracy = clip_loss(clip, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(clip.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            history.append({"step": step, "contrastive": float(loss.detach()), "accuracy": float(accuracy)})
    finally:
        clip.model.eval()
    return history


def clip_loss(clip: ClipEmbedder, batch: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss and the in-batch accuracy (0 to 1). Identical captions are not negatives."""
    captions = [pair.short for pair in batch]
    pixels = clip.image_processor([pair.load_image() for pair in batch], return_tensors="pt").to(clip.model.device)
    max_length = clip.model.config.text_config.max_position_embeddings
    ids = clip.tokenizer(captions, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    images = F.normalize(clip.model.get_image_features(**pixels).pooler_output, dim=-1)
    texts = F.normalize(clip.model.get_text_features(**ids.to(clip.model.device)).pooler_output, dim=-1)
    scale = clip.model.logit_scale.exp().clamp(max=100)
    return contrastive_loss(images, texts, lambda cosines: cosines * scale, same_caption_mask(captions))


def _batches(pairs: Sequence[Pair], steps: int, batch_size: int, seed: int) -> Iterator[list[Pair]]:
    """Yield `steps` batches, reshuffling for each epoch and dropping its incomplete last batch."""
    rng, order = random.Random(seed), []
    for _ in range(steps):
        if len(order) < batch_size:
            order = rng.sample(range(len(pairs)), len(pairs))
        yield [pairs[index] for index in order[:batch_size]]
        order = order[batch_size:]
