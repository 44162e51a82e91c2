"""Identify a model: name, revision, weights, adapter, prompts and dtype, and one fingerprint of them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vladva_kit.embedder.adapter import adapter_state

ADAPTER_PARTS = ("lora_", "soft_prompt", "temperature", "modules_to_save", "original_module")  # in parameter names


def versions() -> dict[str, str]:
    """Return the versions that results depend on: kit, torch, transformers, peft, Python and the type of machine."""
    names = ("vladva-kit", "torch", "transformers", "peft")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {**installed, "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}


def describe(embedder: Any) -> dict[str, Any]:
    """Describe a model completely: `describe(embedder)["adapter"]` is a SHA-256, or None without an adapter.

    Takes an Embedder, a baseline, or any encoder with a string attribute `fingerprint`. Raises TypeError for
    others, since their embeddings could not be distinguished from those of other weights.
    """
    if isinstance(declared := getattr(embedder, "fingerprint", None), str):
        return {"name": type(embedder).__name__, "weights": declared}
    lvlm = getattr(embedder, "lvlm", None)
    model = getattr(lvlm or embedder, "model", None)
    if model is None or not hasattr(model, "named_parameters"):
        raise TypeError(
            f"a {type(embedder).__name__} has no weights to fingerprint; give it a string attribute 'fingerprint' that "
            "changes whenever its embeddings do"
        )
    named = ((name.replace(".base_layer", ""), weight) for name, weight in model.named_parameters())
    base = [(name, weight) for name, weight in named if not any(part in name for part in ADAPTER_PARTS)]
    return {
        "name": (lvlm or embedder).name,
        "revision": getattr(getattr(model, "config", None), "_commit_hash", None),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "weights": _hash_tensors(base),
        "input": _hash_processing(lvlm.processor if lvlm is not None else embedder),
        "adapter": _hash_tensors(adapter_state(lvlm).items()) if lvlm is not None and embedder.adapted else None,
        "prompts": [embedder.image_prompt.words, embedder.text_prompt.words] if lvlm is not None else None,
    }


def model_fingerprint(embedder: Any) -> str:
    """Compute a SHA-256 of everything that embeddings depend on: weights, adapter, prompts, dtype and versions.

        model_fingerprint(embedder) != model_fingerprint(the_same_after_a_training_step)

    Raises TypeError as `describe` does.
    """
    description = describe(embedder)
    description.pop("name")  # the same weights in another folder are the same model
    return hashlib.sha256(json.dumps([description, versions()], sort_keys=True).encode()).hexdigest()


def _hash_tensors(weights: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights, key=lambda item: item[0]):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _hash_processing(source: Any) -> str:
    """Compute a SHA-256 of how inputs are prepared: image sizes, means, vocabulary."""
    image_processor, tokenizer = (getattr(source, name, None) for name in ("image_processor", "tokenizer"))
    settings = [image_processor.to_dict()] if image_processor is not None else []
    settings += [sorted(tokenizer.get_vocab().items())] if tokenizer is not None else []
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
