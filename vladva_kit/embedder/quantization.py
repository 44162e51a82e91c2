"""Encode with int8 weights on a CPU: torchao's dynamic quantization of the frozen linear layers."""

from __future__ import annotations

import importlib.util

from torch import nn

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.models.load import MissingExtra


def quantize_int8(embedder: Embedder) -> Embedder:
    """Replace the weights of the frozen linear layers by int8 ones, in place; return the embedder.

        quantize_int8(vk.Embedder.from_pretrained("emoji-llava-vladva")).encode_text(["a dog"])

    Activations are quantized per token as they pass through. LoRA, soft prompts, embeddings and the LM head keep their
    precision. For encoding and generation only: the embedder can then be neither trained nor exported.
    Raises MissingExtra without torchao, ValueError for a model that is quantized already.
    """
    if importlib.util.find_spec("torchao") is None:
        raise MissingExtra("int8 weights need torchao: pip install torchao, or leave quantize_int8 out")
    model = embedder.lvlm.model
    if getattr(model, "is_quantized", False):
        raise ValueError(f"{embedder.lvlm.name} is quantized already: load it again without four_bit")
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    with embedder.lvlm.lock:
        quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=_is_frozen_linear)
        vars(model).update(is_quantized=True, weight_bits=8)
    return embedder


def _is_frozen_linear(module: nn.Module, name: str) -> bool:
    is_frozen = type(module) is nn.Linear and not module.weight.requires_grad
    return is_frozen and "lora_" not in name and "lm_head" not in name
