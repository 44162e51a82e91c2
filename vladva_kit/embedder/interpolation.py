"""Interpolate between a fine-tuned LVLM and its base: composition costs little LoRA, generation pays for all of it."""

from __future__ import annotations

import torch

from vladva_kit.embedder.embedder import Embedder


def interpolate(embedder: Embedder, weight: float) -> Embedder:
    """Multiply LoRA's update by a weight, in place, and return the embedder: 1 keeps it, 0 gives the base's weights.

        vk.fit(embedder, pairs, settings)
        vk.interpolate(embedder, 0.8)

    A fine-tuned LVLM answers and captions less reliably than its base. Part of LoRA's update can be removed after
    training: embeddings lose little, and generation recovers. Soft prompts stay as they are; they take no part in
    generation. Method: weight-space interpolation, WiSE-FT (arXiv 2109.01903, section 3), on LoRA's product.
    Raises ValueError for a weight outside 0 to 1, or for an embedder without a plain LoRA.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight}: interpolate between 0, the base, and 1, the trained weights")
    has_lora = embedder.config is not None and embedder.config.lora is not None
    named = dict(embedder.lvlm.peft_model.named_parameters()) if has_lora else {}
    update = [value for name, value in named.items() if "lora_B." in name or "lora_embedding_B." in name]
    if not update:
        raise ValueError("this embedder has no LoRA to interpolate: attach(lvlm, lora=True), or leave interpolate out")
    if any("lora_magnitude_vector" in name for name in named):
        raise ValueError("the LoRA is a DoRA, whose magnitudes do not scale with its product: train without use_dora")
    with embedder.lvlm.lock, torch.no_grad():
        for value in update:
            value.mul_(weight)
    return embedder
