"""The checks of what is attached, 3, 4, 5 and 8: what learns, that it learns, that it comes off, that it is kept."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vladva_kit.checks.model import CAPTIONS, LONG, CheckedModel, NotHeld, base_digest, said
from vladva_kit.data.pairs import Pair
from vladva_kit.embedder.adapter import BadAdapter, adapter_state, detach_adapter
from vladva_kit.embedder.embedder import Embedder, attach
from vladva_kit.training.collator import Batch, Collator
from vladva_kit.training.trainer import step_losses

RATES = (1e-3, 1e-4, 1e-5)  # AdamW's rate for the one step of a random tiny model, or of one with 7 billion weights


def only_what_should_learns(run: CheckedModel) -> str:
    """3: soft prompts, LoRA in the LLM and the temperature, counted by hand; targets that match nothing are refused."""
    model, embedder = run.lvlm.model, run.embedder
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    lora = {name.split(".lora_")[0] for name in learning if ".lora_" in name}
    outside = sorted(name for name in lora if not name.startswith(f"{decoder}.layers."))
    others = [name for name in learning if ".lora_" not in name and not re.search("soft_prompt|temperature", name)]
    if outside or others:
        raise NotHeld(f"'{[*outside, *others][0]}' learns: LoRA belongs into {decoder}.layers alone")
    counts = embedder.trainable()
    prompts = len(embedder.image_prompt.ids) + len(embedder.text_prompt.ids)
    dim = model.get_input_embeddings().embedding_dim
    layers = [model.get_submodule(name) for name in lora]
    rank = run.lvlm.adapter.peft_config["default"].r
    wanted = {
        "soft prompt": prompts * dim,
        "LoRA": sum(rank * (layer.in_features + layer.out_features) for layer in layers),
        "temperature": 1,
    }
    if counts != wanted or not lora:
        raise NotHeld(f"{counts} learn instead of {wanted}")
    kinds = sorted({name.rsplit(".", 1)[-1] for name in lora})
    _refuses_targets_that_match_nothing(run)
    return f"{counts}; LoRA on {len(lora)} layers of {decoder}: {', '.join(kinds)}"


def _refuses_targets_that_match_nothing(run: CheckedModel) -> None:
    adapter, run.lvlm.adapter = run.lvlm.adapter, None
    try:
        attach(run.lvlm, lora={"target_modules": ["no_such_layer"]})
    except ValueError:
        return
    finally:
        run.lvlm.adapter = adapter
    raise NotHeld("LoRA targets that match nothing were taken without a word")


def one_step_lowers_the_loss(run: CheckedModel) -> str:
    """8: one step of AdamW lowers the loss, at one of RATES, and leaves the base's bytes alone."""
    embedder, model = run.embedder, run.lvlm.model
    pairs = [Pair(*row) for row in zip(run.pictures, CAPTIONS, LONG, strict=True)]
    batch: Batch = Collator(embedder)(pairs)["batch"]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = [parameter.detach().clone() for parameter in learning]
    for rate in RATES:
        before = step_losses(embedder, batch)["loss"]
        if not before.isfinite():
            raise NotHeld(f"the loss is {float(before.detach())}: the states are not finite in {model.dtype}")
        optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.0)
        optimizer.zero_grad()
        before.backward()
        optimizer.step()
        with torch.no_grad():
            after = float(step_losses(embedder, batch)["loss"])
        if after < float(before.detach()):
            break
        for parameter, value in zip(learning, first, strict=True):
            parameter.data.copy_(value)
    else:
        raise NotHeld(f"the loss goes from {float(before.detach()):.4f} to {after:.4f} at the smallest rate {rate}")
    if base_digest(model) != run.before["fingerprint"]:
        raise NotHeld("the step changed weights of the base")
    return f"{float(before.detach()):.4f} to {after:.4f}; the base's bytes are what they were"


def off_is_the_base(run: CheckedModel) -> str:
    """5: with the adapter off, logits and greedy answers are bit-equal to those before anything was attached."""
    embedder = run.embedder
    changed = not torch.equal(embedder.encode_text(CAPTIONS), run.baseline.encode_text(CAPTIONS))
    if not changed:
        raise NotHeld("the adapter changes nothing: was the step of training done?")
    with embedder.base():
        now = said(run)
    for name, value in run.before.items():
        same = torch.equal(value, now[name]) if isinstance(value, Tensor) else value == now[name]
        if not same:
            raise NotHeld(f"with the adapter off the {name} differs from the untouched model's")
    return "after training, logits and greedy answers are bit-equal to the untouched model's"


def saved_is_loaded(run: CheckedModel) -> str:
    """4: saved and loaded again, embeddings are bit-equal; a missing or an unexpected tensor is refused."""
    embedder = run.embedder
    before = [embedder.encode_image(run.pictures), embedder.encode_text(CAPTIONS)]
    names = len(adapter_state(run.lvlm))
    with tempfile.TemporaryDirectory() as parent:
        folder = embedder.save_pretrained(Path(parent) / "adapter")
        detach_adapter(run.lvlm)
        run.attached = again = Embedder.from_pretrained(folder, run.lvlm)
        after = [again.encode_image(run.pictures), again.encode_text(CAPTIONS)]
        if not all(torch.equal(one, other) for one, other in zip(before, after, strict=True)):
            raise NotHeld("what was loaded embeds otherwise than what was saved")
        _refuses_other_keys(run, folder)
    return f"bit-equal; a missing and an unexpected one of {names} tensors are refused"


def _refuses_other_keys(run: CheckedModel, folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    state = load_file(weights)
    missing = {name: value for name, value in state.items() if "soft_prompt" not in name}
    for what, wrong in (("missing", missing), ("unexpected", {**state, "stranger": torch.zeros(1)})):
        save_file(wrong, weights)
        if run.lvlm.adapter is not None:
            detach_adapter(run.lvlm)
        try:
            Embedder.from_pretrained(folder, run.lvlm)
        except BadAdapter:
            continue
        raise NotHeld(f"an adapter with a {what} tensor was loaded without a word")
