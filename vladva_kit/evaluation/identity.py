"""Which model it is that was judged: name, revision, weights, adapter, prompts, dtype; and one fingerprint of them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ADAPTERS = ("lora_", "soft_prompt", "temperature", "modules_to_save", "original_module")  # in names of what is attached


def versions() -> dict[str, str]:
    """What must be the same for the figures to be: kit, torch, transformers, peft, Python, the machine's kind."""
    names = ("vladva-kit", "torch", "transformers", "peft")
    found = {name: importlib.metadata.version(name) for name in names}
    return {**found, "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}


def describe(embedder: Any) -> dict[str, Any]:
    """All that tells one embedder from another: `describe(embedder)["adapter"]`, a SHA-256 or None.

    Takes an Embedder, a ClipEmbedder, or any encoder with a text attribute `fingerprint`. Raises TypeError for others:
    nothing would tell their embeddings from those of other weights.
    """
    if isinstance(own := getattr(embedder, "fingerprint", None), str):
        return {"name": type(embedder).__name__, "weights": own}
    lvlm = getattr(embedder, "lvlm", None)
    model = getattr(lvlm or embedder, "model", None)
    if model is None or not hasattr(model, "named_parameters"):
        raise TypeError(
            f"a {type(embedder).__name__} has no weights that can be told from others; give it a text attribute "
            "'fingerprint' that changes whenever its embeddings do"
        )
    record = {
        "name": lvlm.name if lvlm is not None else getattr(model.config, "_name_or_path", ""),
        "revision": getattr(model.config, "_commit_hash", None),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": _hashed(_base_weights(model)),
        "input": _processing(lvlm.processor if lvlm is not None else embedder),
        "adapter": None,
        "prompts": None,
    }
    if lvlm is not None:
        record["prompts"] = [embedder.image_prompt.words, embedder.text_prompt.words]
        if embedder.adapted:
            from vladva_kit.embedder.adapter import adapter_state

            record["adapter"] = _hashed(adapter_state(lvlm).items())
    return record


def fingerprint(embedder: Any) -> str:
    """A SHA-256 that changes with whatever changes the embeddings: weights, adapter, prompts, dtype, versions.

    fingerprint(embedder) != fingerprint(the_same_after_a_step_of_training)

    Raises TypeError as `describe` does.
    """
    told = describe(embedder)
    told.pop("name")  # the same weights in another folder are the same model
    return hashlib.sha256(json.dumps([told, versions()], sort_keys=True).encode()).hexdigest()


def _base_weights(model: Any) -> list[tuple[str, Tensor]]:
    """The model's own weights by the names that they have without an adapter."""
    named = ((name.replace(".base_layer", ""), weight) for name, weight in model.named_parameters())
    return [(name, weight) for name, weight in named if not any(part in name for part in ADAPTERS)]


def _hashed(weights: Iterable[tuple[str, Tensor]]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(weights, key=lambda one: one[0]):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _processing(source: Any) -> str:
    """A SHA-256 of how pictures and texts are prepared: sizes, means, vocabulary."""
    parts = [getattr(source, name, None) for name in ("image_processor", "tokenizer")]
    told = [part.to_dict() for part in parts[:1] if part is not None]
    told += [sorted(part.get_vocab().items()) for part in parts[1:] if part is not None]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
