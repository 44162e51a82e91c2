"""sentence-transformers on the same weights as a baseline: an exported model, and a step of its cached loss.

It is optional: pip install 'vladva-kit[baselines]'. Without it, the pages state that it was not measured.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import vladva_kit as vk
from vladva_kit.embedder.export import export
from vladva_kit.embedder.soft_prompt import llm_linear_pattern

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NOT_INSTALLED = "sentence-transformers: not measured, since it is not installed (pip install 'vladva-kit[baselines]')."


def installed() -> bool:
    """Return whether sentence-transformers can be imported."""
    return importlib.util.find_spec("sentence_transformers") is not None


def sentence_transformer(embedder: vk.Embedder, folder: Path) -> SentenceTransformer:
    """Export the embedder to a folder and load it with sentence-transformers, on the same device and in its dtype."""
    from sentence_transformers import SentenceTransformer

    export(embedder, folder)
    dtype = embedder.lvlm.model.dtype
    return SentenceTransformer(str(folder), device=str(embedder.device), model_kwargs={"dtype": dtype})


def cached_loss_step(embedder: vk.Embedder, pairs: list[vk.Pair], rows: int, folder: Path) -> Callable[[], float]:
    """Return a function that runs one step of sentence-transformers' cached loss on images and short captions.

    It is symmetric, as the kit's loss, and trains LoRA of the same rank on the same layers. Only the kit also trains
    soft prompts and a temperature.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from sentence_transformers import losses

    model = sentence_transformer(embedder, folder)
    inner = model[0].auto_model
    inner.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=16, lora_alpha=16, target_modules=llm_linear_pattern(inner)), inner)
    loss = losses.CachedMultipleNegativesRankingLoss(
        model, scale=1 / 0.07, mini_batch_size=rows, directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )  # fmt: skip
    columns = ([pair.load_image() for pair in pairs], [pair.short for pair in pairs])
    features = [_to_device(model.preprocess(column), embedder.device) for column in columns]
    trainable = [weight for weight in inner.parameters() if weight.requires_grad]

    def step() -> float:
        for weight in trainable:
            weight.grad = None
        value = loss([dict(column) for column in features], None)
        value.backward()
        return float(value.detach())

    return step


def _to_device(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in features.items()}
