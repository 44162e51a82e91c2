"""Soft prompt and temperature: two small modules inside the LVLM, saved by peft in the same adapter as LoRA.

The soft prompt is a child of the token embedding. Ids at or above the vocabulary size select its rows, so nothing is
resized, the LM head gets no new columns, and without the adapter the LVLM stays bit-identical (paper, section 3.3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_SCALE = 100.0  # CLIP's upper bound of 1 / temperature


class SoftPrompt(nn.Module):
    """Trainable float32 embeddings (k, hidden), in the embedding's output space; row i has the id `first_id + i`."""

    def __init__(self, rows: Tensor, first_id: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows.detach().float().clone())
        self.first_id = first_id

    def forward(self, ids: Tensor) -> Tensor:
        """Look up (batch, length) ids as (batch, length, hidden); the caller masks ids that are not the prompt's."""
        return F.embedding((ids - self.first_id).clamp(0, len(self.weight) - 1), self.weight)


class Temperature(nn.Module):
    """Multiply cosines by a trainable 1 / temperature, stored as a logarithm and bounded as in CLIP."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))

    def forward(self, cosines: Tensor) -> Tensor:
        """Return float32 logits of the same shape."""
        return cosines.float() * self.log_scale.exp().clamp(max=MAX_SCALE)


def install_soft_prompt(model: PreTrainedModel, rows: Tensor) -> int:
    """Add a soft prompt with initial rows (k, hidden) to the token embedding, and return its first id.

        first_id = install_soft_prompt(model, model.get_input_embeddings()(torch.tensor(prompt_ids)))

    Raises ValueError if the model already has one.
    """
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    if hasattr(embedding, "soft_prompt"):
        raise ValueError("the model already has a soft prompt: load it again to attach another")
    embedding.soft_prompt = SoftPrompt(rows.to(embedding.weight.device), embedding.num_embeddings)
    embedding.forward = partial(_embed, embedding, embedding.forward)  # type: ignore[method-assign]  # removed with it
    return embedding.num_embeddings


def _embed(embedding: nn.Embedding, embed_tokens: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    """Embed prompt ids with the soft prompt and all others with the embedding's own forward; keeps no state."""
    is_prompt = ids >= embedding.num_embeddings
    tokens = embed_tokens(ids.masked_fill(is_prompt, 0))
    return torch.where(is_prompt[..., None], cast(nn.Module, embedding.soft_prompt)(ids).to(tokens.dtype), tokens)


def remove_soft_prompt(model: PreTrainedModel) -> None:
    """Undo `install_soft_prompt`."""
    embedding = model.get_input_embeddings()
    original = cast(partial, embedding.forward).args[1]
    del embedding.forward, embedding.soft_prompt
    if embedding.forward != original:  # not the class's own method, for example accelerate's under a device_map
        embedding.forward = original


def llm_linear_pattern(model: PreTrainedModel) -> str:
    """Return a regular expression for the LLM's linear layers; it excludes vision encoder, projector and LM head.

        re.fullmatch(llm_linear_pattern(model), "model.language_model.layers.0.mlp.up_proj")

    Raises ValueError if no module of the model matches.
    """
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    pattern = rf"{re.escape(name)}\.layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+_proj"
    if not any(re.fullmatch(pattern, candidate) for candidate, _ in model.named_modules()):
        raise ValueError(
            f"no linear layer of {type(model).__name__} matches '{pattern}', so LoRA would train nothing: "
            "pass lora={'target_modules': …} with the names of its layers"
        )
    return pattern
