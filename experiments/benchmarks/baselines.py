"""sentence-transformers beside the kit, on the same weights: exported, loaded, and trained by its own cached loss.

It is not among the kit's dependencies: pip install 'vladva-kit[baselines]'. Where it is missing, a page says so.
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

MISSING = (
    "Against sentence-transformers: not measured, since it is not installed (pip install 'vladva-kit[baselines]')."
)


def there() -> bool:
    """Whether sentence-transformers can be imported."""
    return importlib.util.find_spec("sentence_transformers") is not None


def sentence_model(embedder: vk.Embedder, folder: Path) -> SentenceTransformer:
    """The embedder's weights, prompts merged in, as sentence-transformers loads them; on the embedder's device."""
    from sentence_transformers import SentenceTransformer

    export(embedder, folder)
    dtype = embedder.lvlm.model.dtype
    return SentenceTransformer(str(folder), device=str(embedder.device), model_kwargs={"dtype": dtype})


def cached_loss_step(embedder: vk.Embedder, pairs: list[vk.Pair], rows: int, folder: Path) -> Callable[[], Any]:
    """A step of its cached loss over pictures and short captions, both ways as in the kit: a function to be timed.

    LoRA of the same rank is put on the same layers; the kit's soft prompts and temperature learn besides.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from sentence_transformers import losses

    model = sentence_model(embedder, folder)
    inner = model[0].auto_model
    for weight in inner.parameters():
        weight.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=16, lora_alpha=16, target_modules=llm_linear_pattern(inner)), inner)
    loss = losses.CachedMultipleNegativesRankingLoss(
        model, scale=1 / 0.07, mini_batch_size=rows, directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )  # fmt: skip
    columns = ([pair.load_image() for pair in pairs], [pair.short for pair in pairs])
    features = [_moved(model.preprocess(column), embedder.device) for column in columns]
    learning = [weight for weight in inner.parameters() if weight.requires_grad]

    def step() -> Any:
        for weight in learning:
            weight.grad = None
        value = loss([dict(column) for column in features], None)
        value.backward()
        return float(value.detach())

    return step


def _moved(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in features.items()}
