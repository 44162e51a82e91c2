"""Run the tokens that sequences start with once, and continue from their keys and values.

All captions follow the same system prompt and chat template, and all captions of an image the same image and request.
Attention is causal, so the states are those of a forward pass over the complete sequences.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vladva_kit.embedder.prompts import ModelInputs
from vladva_kit.models.load import LVLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MIN_SHARED_PREFIX = 4  # tokens; fewer save no more than the second forward pass costs (measured on a CPU)


@dataclass(frozen=True)
class Prefix:
    """What one forward pass over the start of sequences leaves for the tokens after it."""

    states: Tensor  # (rows, length, hidden)
    cache: DynamicCache  # keys and values
    repeated: Mapping[str, Tensor] = field(default_factory=dict)  # inputs that repeat their last value along the tokens


def run_prefix(lvlm: LVLM, inputs: Mapping[str, Tensor]) -> Prefix:
    """Run the start of sequences, unpadded; shapes as in a `ModelInputs`.

    run_prefix(lvlm, {"input_ids": torch.tensor([[1, 5, 7]])}).states    # (1, 3, hidden)
    """
    cache = DynamicCache()  # without a config its layers keep all tokens; the model's masks apply the sliding windows
    states = _run_with_cache(lvlm, cache, **inputs)
    names = (name for name in lvlm.family.repeat_last_along_seq if name in inputs)
    return Prefix(states, cache, {name: inputs[name][:, -1:] for name in names})


def run_after(lvlm: LVLM, prefix: Prefix, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the states (n, length, hidden) of right-padded ids (n, length): equally many for each row of the prefix.

        run_after(lvlm, run_prefix(lvlm, {"input_ids": start}), rest)

    positions: (1, length), if the model does not derive them from the cache's length. Padding is not attended to, since
    attention is causal.
    """
    repeats, length = len(ids) // len(prefix.states), ids.shape[1]
    cache = copy.copy(prefix.cache)
    cache.layers = [_repeat_layer(layer, repeats) for layer in prefix.cache.layers]
    inputs = {name: _repeat(last, repeats).repeat_interleave(length, 1) for name, last in prefix.repeated.items()}
    if positions is not None:
        inputs["position_ids"] = positions.expand(len(ids), -1)
    return _run_with_cache(lvlm, cache, input_ids=ids, **inputs)


def _run_with_cache(lvlm: LVLM, cache: DynamicCache, **inputs: Tensor) -> Tensor:
    model = lvlm.model.model
    # older versions of transformers name it past_key_values
    name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    return model(**inputs, **{name: cache}, use_cache=True).last_hidden_state


def _repeat_layer(layer: Any, repeats: int) -> Any:
    """Copy a cache's layer for more rows; the model replaces its tensors and changes none in place."""
    layer = copy.copy(layer)
    if layer.is_initialized:
        layer.keys, layer.values = _repeat(layer.keys, repeats), _repeat(layer.values, repeats)
    return layer


def _repeat(values: Tensor, repeats: int) -> Tensor:
    """Repeat each row; a view if there is one."""
    return values[:, None].expand(-1, repeats, *values.shape[1:]).flatten(0, 1)


def why_not_shared(lvlm: LVLM, length: int) -> str | None:
    """Return why captions do not share a prefix of so many tokens, None if they do: `why_not_shared(lvlm, 14)`."""
    if length < MIN_SHARED_PREFIX:
        return f"it has fewer than {MIN_SHARED_PREFIX} tokens"
    if lvlm.family.text_needs_token_type_ids:  # zeros, which mark tokens that attend to each other
        return "attention is bidirectional"
    if not lvlm.family.verified:
        return f"family '{lvlm.family.model_type}' is unverified"
    return None


def shared_prefix(lvlm: LVLM, batch: ModelInputs) -> Prefix | None:
    """Run the prefix of a batch of texts once; None where each text runs its own: `shared_prefix(lvlm, batch)`.

    In training that is so, too, with activation checkpointing, and with dropout, which differs between texts.
    """
    if why_not_shared(lvlm, batch.prefix_length) or (lvlm.model.training and _drops_or_recomputes(lvlm.model)):
        return None
    return run_prefix(lvlm, {"input_ids": batch.inputs["input_ids"][:1, : batch.prefix_length]})


def _drops_or_recomputes(model: PreTrainedModel) -> bool:
    modules = any(
        (isinstance(module, nn.Dropout) and module.p > 0) or getattr(module, "gradient_checkpointing", False)
        for module in model.modules()
    )
    return modules or bool(getattr(model.config.get_text_config(), "attention_dropout", 0.0))


def states_with_prefix(lvlm: LVLM, batch: ModelInputs, prefix: Prefix) -> Tensor:
    """Return the hidden states (batch, length, hidden) of texts that start with `prefix`.

    states_with_prefix(lvlm, batch, shared_prefix(lvlm, batch))
    """
    ids, start = batch.inputs["input_ids"], batch.prefix_length
    # explicit, since Qwen's models keep an offset of the last image
    positions = torch.arange(start, ids.shape[1], device=ids.device)[None]
    after = run_after(lvlm, prefix, ids[:, start:], positions)
    return torch.cat([prefix.states.expand(len(ids), -1, -1), after], 1)
