"""Estimate the memory of a forward pass from a config: what is in use at once within the largest module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vladva_kit.embedder.prompts import ModelInputs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

GIB = 2**30
MAX_LOGITS_PER_CHUNK = 2**25  # values: 128 MB in float32, and about as much again for the softmax


@dataclass(frozen=True)
class Lengths:
    """Sequence lengths of a batch, in tokens."""

    image: int  # image, prompt and long caption
    text: int  # short caption and prompt
    caption: int  # long caption only: the tokens that need logits
    patches: int  # of an image, in the vision encoder


def attention_width(text: PreTrainedConfig) -> int:
    """Return the width of the queries, keys or values of all heads: `attention_width(config.get_text_config())`."""
    return text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def score_bytes(text: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Return bytes per pair of tokens and layer: only capped attention (Gemma 2) stores attention scores."""
    capped = getattr(text, "attn_logit_softcapping", None)
    return text.num_attention_heads * (2 * dtype.itemsize + 4) if capped else 0


def peak_of_a_module(config: PreTrainedConfig, batch: int, lengths: Lengths, dtype: torch.dtype, mode: str) -> int:
    """Return the bytes in use at once within the largest of: a vision encoder layer, an LLM layer, the head."""
    text, vision, size = config.get_text_config(), config.vision_config, dtype.itemsize
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or 4 * width
    encoder = batch * lengths.patches * size * (4 * width + 2 * inner)
    image = lengths.image if mode == "train" else lengths.image - lengths.caption
    tokens = batch * max(image, lengths.text)
    llm = tokens * (size * (3 * text.hidden_size + max(3 * text.intermediate_size, 4 * attention_width(text))) + 4)
    llm = max(llm, tokens * max(image, lengths.text) * score_bytes(text, dtype))
    logits = min(batch * lengths.caption * text.vocab_size, MAX_LOGITS_PER_CHUNK)
    head = logits * (size + 12) if mode == "train" else 0  # also in float32: logits, softmax and gradient
    return max(encoder, llm, head)


def encode_estimate(model: PreTrainedModel, batch: ModelInputs | None) -> str:
    """Say what encoding a batch takes: `encode_estimate(model, batch)` is "about 5.1 GiB for weights and …".

    It is "" without a batch, and for a config that the formula does not know.
    """
    if batch is None:
        return ""
    rows, length = batch.inputs["attention_mask"].shape
    pixels = batch.inputs.get("pixel_values")
    try:
        patch = model.config.vision_config.patch_size
        patch_area = patch**2 if isinstance(patch, int) else patch[0] * patch[-1]
        patches = 0 if pixels is None else pixels.numel() // (3 * patch_area * rows)
        lengths = Lengths(length, length, 0, patches)
        peak = peak_of_a_module(model.config, rows, lengths, model.dtype, "encode")
    except (AttributeError, TypeError, ZeroDivisionError):
        return ""
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return f", about {weights / GIB:.2f} GiB for weights and {peak / GIB:.2f} GiB for {rows} rows of {length} tokens"
