"""Soft prompts and the temperature: two small modules inside the LVLM, saved by peft in the adapter beside LoRA.

The soft prompt hangs under the token embedding. Ids at or above the vocabulary's end are its rows, so nothing is
resized, the head gets no new columns, and with the adapter off the LVLM is what it was, bit for bit (paper, 3.3).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_SCALE = 100.0  # CLIP's bound on 1 / temperature


class SoftPrompt(nn.Module):
    """Learnable rows in the embedding's output space, kept in float32; row i answers to the id `first_id + i`."""

    def __init__(self, rows: Tensor, first_id: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows.detach().float().clone())
        self.first_id = first_id

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) ids to (batch, length, hidden); ids that are not the prompt's give some row, to be masked."""
        return F.embedding((ids - self.first_id).clamp(0, len(self.weight) - 1), self.weight)


class Temperature(nn.Module):
    """Cosines to logits: multiplied by 1 / temperature, learned as a logarithm and bounded as CLIP's is."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))

    def forward(self, cosines: Tensor) -> Tensor:
        """Logits of the same shape, in float32."""
        return cosines.float() * self.log_scale.exp().clamp(max=MAX_SCALE)


def _take_out(embedding: nn.Embedding, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    ids = inputs[0]
    prompt = ids >= embedding.num_embeddings
    embedding.prompt_places = (ids, prompt)
    return (ids.masked_fill(prompt, 0), *inputs[1:])


def _put_in(embedding: nn.Embedding, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    ids, prompt = embedding.prompt_places
    del embedding.prompt_places
    return torch.where(prompt[..., None], embedding.soft_prompt(ids).to(output.dtype), output)


def install_soft_prompt(model: PreTrainedModel, rows: Tensor) -> int:
    """Hangs a soft prompt of these rows (k, hidden) under the model's token embedding; returns its first id.

        first_id = install_soft_prompt(model, model.get_input_embeddings()(torch.tensor(prompt_ids)))

    Raises ValueError when the model carries one already.
    """
    embedding = model.get_input_embeddings()
    if hasattr(embedding, "soft_prompt"):
        raise ValueError("the model carries a soft prompt already: load it again before attaching another")
    embedding.soft_prompt = SoftPrompt(rows.to(embedding.weight.device), embedding.num_embeddings)
    embedding.prompt_hooks = (
        embedding.register_forward_pre_hook(_take_out),
        embedding.register_forward_hook(_put_in),
    )
    return embedding.num_embeddings


def remove_soft_prompt(model: PreTrainedModel) -> None:
    """Removes what `install_soft_prompt` put in place."""
    embedding = model.get_input_embeddings()
    for hook in embedding.prompt_hooks:
        hook.remove()
    del embedding.soft_prompt, embedding.prompt_hooks


def llm_linear_pattern(model: PreTrainedModel) -> str:
    """A pattern for the linear layers of the LLM, and of nothing else: not the vision tower, projector or head.

        re.fullmatch(llm_linear_pattern(model), "model.language_model.layers.0.mlp.up_proj")

    Raises ValueError when no module of the model matches.
    """
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    pattern = rf"{re.escape(name)}\.layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+_proj"
    if not any(re.fullmatch(pattern, candidate) for candidate, _ in model.named_modules()):
        raise ValueError(
            f"no linear layer of {type(model).__name__} matches '{pattern}': LoRA would train nothing; "
            "pass lora={'target_modules': …} with the names of its layers"
        )
    return pattern
