"""Checks of the adapter (3, 4, 5, 8): trainable parameters, saving and loading, switching off, one training step."""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vladva_kit.checks.model import CAPTIONS, LONG_CAPTIONS, CheckedModel, CheckFailed, base_outputs
from vladva_kit.data.pairs import Pair
from vladva_kit.embedder.adapter import BadAdapter, adapter_state, detach_adapter
from vladva_kit.embedder.embedder import Embedder, attach
from vladva_kit.embedder.identity import describe
from vladva_kit.training.collator import Batch, Collator
from vladva_kit.training.trainer import step_losses

if TYPE_CHECKING:
    from peft import LoraConfig

RATES = (1e-3, 1e-4, 1e-5)  # AdamW learning rates to try: tiny random models need the first, 7B models the last


def only_adapter_is_trainable(run: CheckedModel) -> str:
    """3: Soft prompts, the LLM's LoRA and the temperature are trainable; LoRA targets that match nothing raise."""
    with suppress(ValueError):
        attach(run.lvlm, lora={"target_modules": ["no_such_layer"]}, quiet=True)
        raise CheckFailed("attach accepted LoRA targets that match no layer")
    model, embedder = run.lvlm.model, run.embedder
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    lora = {name.split(".lora_")[0] for name in trainable if ".lora_" in name}
    outside = sorted(name for name in lora if not name.startswith(f"{decoder}.layers."))
    others = [name for name in trainable if ".lora_" not in name and not re.search("soft_prompt|temperature", name)]
    if outside or others:
        raise CheckFailed(f"'{[*outside, *others][0]}' is trainable: LoRA belongs in {decoder}.layers only")
    counts = embedder.trainable()
    prompt_tokens = len(embedder.image_prompt.ids) + len(embedder.text_prompt.ids)
    layers: list[Any] = [model.get_submodule(name) for name in lora]
    rank = cast("LoraConfig", run.lvlm.peft_model.peft_config["default"]).r
    expected = {
        "soft prompt": prompt_tokens * run.lvlm.embedding.embedding_dim,
        "LoRA": sum(rank * (layer.in_features + layer.out_features) for layer in layers),
        "temperature": 1,
    }
    if counts != expected or not lora:
        raise CheckFailed(f"trainable parameters are {counts}, expected {expected}")
    kinds = sorted({name.rsplit(".", 1)[-1] for name in lora})
    return f"{counts}; LoRA on {len(lora)} layers of {decoder}: {', '.join(kinds)}"


def training_step_lowers_loss(run: CheckedModel) -> str:
    """8: One AdamW step at one of RATES lowers the loss and leaves the base weights unchanged."""
    embedder, model = run.embedder, run.lvlm.model
    pairs = [Pair(*fields) for fields in zip(run.images, CAPTIONS, LONG_CAPTIONS, strict=True)]
    batch: Batch = Collator(embedder)(pairs)["batch"]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    initial = [parameter.detach().clone() for parameter in trainable]
    for rate in RATES:
        loss = step_losses(embedder, batch)["loss"]
        before = float(loss.detach())
        if not loss.isfinite():
            raise CheckFailed(f"the loss is {before} in {model.dtype}")
        optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            after = float(step_losses(embedder, batch)["loss"])
        if after < before:
            break
        for parameter, value in zip(trainable, initial, strict=True):
            parameter.data.copy_(value)
    else:
        raise CheckFailed(f"the loss goes from {before:.4f} to {after:.4f} at the smallest learning rate, {rate}")
    if describe(run.base)["weights"] != run.reference["weights"]:
        raise CheckFailed("the training step changed base weights")
    return f"loss {before:.4f} to {after:.4f}; base weights unchanged"


def adapter_off_restores_base(run: CheckedModel) -> str:
    """5: With the adapter off, logits and greedy answers are bit-identical to the untouched model's."""
    embedder = run.embedder
    if torch.equal(embedder.encode_text(CAPTIONS), run.base.encode_text(CAPTIONS)):
        raise CheckFailed("the adapter does not change the embeddings, so this proves nothing: did check 8 train it?")
    with embedder.base():
        outputs = base_outputs(run)
    for name, expected in run.reference.items():
        equal = torch.equal(expected, outputs[name]) if isinstance(expected, Tensor) else expected == outputs[name]
        if not equal:
            raise CheckFailed(f"with the adapter off, the {name} differ from the untouched model's")
    return "after training, logits and greedy answers are bit-identical to the untouched model's"


def save_load_round_trip(run: CheckedModel) -> str:
    """4: A loaded adapter gives bit-identical embeddings; missing and unexpected tensors raise."""
    embedder = run.embedder
    before = [embedder.encode_image(run.images), embedder.encode_text(CAPTIONS)]
    n_tensors = len(adapter_state(run.lvlm))
    with tempfile.TemporaryDirectory() as parent:
        folder = embedder.save_pretrained(Path(parent) / "adapter")
        detach_adapter(run.lvlm)
        run.adapted = loaded = Embedder.from_pretrained(folder, run.lvlm)
        after = [loaded.encode_image(run.images), loaded.encode_text(CAPTIONS)]
        if not all(torch.equal(saved, again) for saved, again in zip(before, after, strict=True)):
            raise CheckFailed("the loaded adapter gives other embeddings than the saved one")
        _reject_wrong_tensors(run, folder)
    return f"bit-identical; a missing or unexpected tensor among {n_tensors} raises"


def _reject_wrong_tensors(run: CheckedModel, folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    state = load_file(weights)
    missing = {name: value for name, value in state.items() if "soft_prompt" not in name}
    for problem, wrong in (("missing", missing), ("unexpected", {**state, "stranger": torch.zeros(1)})):
        save_file(wrong, weights)
        if run.lvlm.adapter is not None:
            detach_adapter(run.lvlm)
        with suppress(BadAdapter):
            Embedder.from_pretrained(folder, run.lvlm)
            raise CheckFailed(f"an adapter with a {problem} tensor was loaded without an error")
