"""The eight checks that every family is held to, for any model: `vladva check MODEL` prints them.

They need no data and no hub: three small pictures are drawn, a few captions are given. They try what can go wrong
without a word: positions, padding, token types, targets that match nothing, an adapter that is not wholly off.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.adapter import BadAdapter, adapter_state, detach_adapter
from vladva_kit.data import Pair
from vladva_kit.embedder import Embedder, attach, summary_embeddings
from vladva_kit.lvlm import LVLM
from vladva_kit.prompts import IMAGE_PROMPT, TEXT_PROMPT, begins_with_bos, caption_ids, image_sequences
from vladva_kit.training import Batch, Collator, step_losses

QUESTION = "What is in the picture?"
CAPTIONS = ("a dog", "two red balls lie on green grass", "a cat under a blue table, left of the door")
LONG = (
    "A small dog stands in front of a house; behind it, there are trees and a grey sky.",
    "Two red balls lie on green grass, and the larger one is on the left of the smaller one, near the water.",
    "A cat.",
)
RATES = (1e-3, 1e-4, 1e-5)  # AdamW's rate for the one step of a random tiny model, or of one with 7 billion weights


class NotHeld(AssertionError):
    """A check does not hold; the message says what was measured."""


@dataclass(frozen=True)
class Check:
    """One of the eight: what it holds the model to, whether it does, and what was measured."""

    number: int
    what: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.number}  {'holds' if self.passed else 'FAILS'}  {self.what}: {self.detail}"


@dataclass
class _Run:
    """One model on its way through the checks."""

    lvlm: LVLM
    baseline: Embedder
    pictures: list[Image.Image]
    before: dict[str, Any] = field(default_factory=dict)  # what the untouched model said
    _embedder: Embedder | None = None

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            self.before = _said(self)
            self._embedder = attach(self.lvlm)
        return self._embedder


def run_checks(lvlm: LVLM) -> list[Check]:
    """The eight checks in their order; the LVLM is left as it was.

        [check.passed for check in run_checks(load_lvlm("emoji-llava"))]    # [True, True, …], eight

    A check that cannot be run counts as failed, with its error. Raises ValueError for an LVLM with an adapter.
    """
    if lvlm.adapter is not None:
        raise ValueError(f"{lvlm.name} carries an adapter: the checks need the LVLM as load_lvlm gives it")
    run = _Run(lvlm, Embedder(lvlm), example_pictures())
    done = []
    try:
        for number, what, check in _CHECKS:
            try:
                done.append(Check(number, what, True, check(run)))
            except Exception as error:  # a model of any family, which may break anywhere: said in its line
                said = " ".join(str(error).split())
                detail = said if isinstance(error, NotHeld) else f"{type(error).__name__}: {said}"
                done.append(Check(number, what, False, detail))
    finally:
        if lvlm.adapter is not None:
            detach_adapter(lvlm)
    return sorted(done, key=lambda check: check.number)


def example_pictures() -> list[Image.Image]:
    """Three drawn pictures of different shapes: families of dynamic resolution get rows of different lengths."""
    pictures = []
    for number, size in enumerate(((96, 96), (160, 80), (90, 150))):
        picture = Image.linear_gradient("L").resize(size).convert("RGB")
        draw = ImageDraw.Draw(picture)
        for place in range(4):
            left, top = (37 * (place + 1) * (number + 2)) % size[0], (53 * (place + 2) * (number + 1)) % size[1]
            color = tuple((80 * place + 60 * number + 97 * channel) % 256 for channel in range(3))
            draw.ellipse((left - 20, top - 20, left + 20, top + 20), fill=color)
        pictures.append(picture)
    return pictures


def _close(run: _Run, ours: Tensor, theirs: Tensor) -> str:
    """How near unit vectors are: 1e-5 in float32, a cosine of 0.999 in half precision."""
    theirs = theirs.to(ours)
    if run.lvlm.model.dtype == torch.float32:
        off = float((ours - theirs).abs().max())
        if not off <= 1e-5:  # written so that NaN fails
            raise NotHeld(f"off by {off:.1e}, allowed is 1e-05")
        return f"off by {off:.1e}"
    cosine = float((ours * theirs).sum(-1).min())
    if not cosine >= 0.999:
        raise NotHeld(f"cosine {cosine:.5f}, at least 0.999 is needed")
    return f"cosine {cosine:.5f}"


def _own_batch(run: _Run, content: list[dict[str, str]], picture: Image.Image | None) -> dict[str, Tensor]:
    """What the family's own processor makes of a chat, as a reader of its model card would call it."""
    processor = run.lvlm.processor
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    written = {"return_tensors": "pt", "add_special_tokens": not begins_with_bos(processor.tokenizer, text)}
    if picture is None:
        types = run.lvlm.family.typed_text
        batch = processor.tokenizer(text, return_token_type_ids=types, **written)
    else:
        batch = processor(images=[[picture]], text=[text], **written)
    batch.pop("labels", None)
    return batch.to(run.lvlm.model.device)


def _own_summary(run: _Run, words: str, picture: Image.Image | None) -> Tensor:
    content = [{"type": "text", "text": words}]
    batch = _own_batch(run, content if picture is None else [{"type": "image"}, *content], picture)
    with torch.inference_mode():
        states = run.lvlm.model(**batch, output_hidden_states=True, use_cache=False).hidden_states[-1]
    return F.normalize(states[0, -1].float(), dim=-1)


def _equals_own_forward(run: _Run) -> str:
    images = torch.stack([_own_summary(run, IMAGE_PROMPT, picture) for picture in run.pictures])
    texts = torch.stack([_own_summary(run, f"{caption} {TEXT_PROMPT}", None) for caption in CAPTIONS])
    image = _close(run, run.baseline.encode_image(run.pictures), images.cpu())
    return f"images {image}, texts {_close(run, run.baseline.encode_text(CAPTIONS), texts.cpu())}"


def _one_equals_many(run: _Run) -> str:
    baseline = run.baseline
    images = _close(run, baseline.encode_image(run.pictures, 1), baseline.encode_image(run.pictures))
    return f"images {images}, texts {_close(run, baseline.encode_text(CAPTIONS, 1), baseline.encode_text(CAPTIONS))}"


def _reads_pictures_and_only_them(run: _Run) -> str:
    images = run.baseline.encode_image(run.pictures)
    apart = min(float((images[0] - other).abs().max()) for other in images[1:])
    if not apart > 1e-4:
        raise NotHeld(f"two pictures give embeddings only {apart:.1e} apart: is the picture read?")
    tokenizer = run.lvlm.processor.tokenizer
    rows = run.lvlm.model.get_input_embeddings().num_embeddings
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    for number, token in added.items():
        ids = caption_ids(tokenizer, f"a dog {token} a cat")
        if number in ids and (len(token) > 1):
            raise NotHeld(f"'{token}' in a caption acts as token {number} instead of being read as text")
        if max(ids) >= rows:
            raise NotHeld(f"'{token}' in a caption gives id {max(ids)}, which is the soft prompt's (from {rows} on)")
    embedded = run.baseline.encode_text([f"a dog {token}" for token in [*added.values()][:4]])
    if not embedded.isfinite().all():
        raise NotHeld("captions with special tokens give embeddings that are not finite")
    return f"pictures {apart:.1e} apart; {len(added)} special tokens tried in a caption, each read as text"


def _only_what_should_learns(run: _Run) -> str:
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


def _refuses_targets_that_match_nothing(run: _Run) -> None:
    adapter, run.lvlm.adapter = run.lvlm.adapter, None
    try:
        attach(run.lvlm, lora={"target_modules": ["no_such_layer"]})
    except ValueError:
        return
    finally:
        run.lvlm.adapter = adapter
    raise NotHeld("LoRA targets that match nothing were taken without a word")


def _caption_behind_changes_nothing(run: _Run) -> str:
    embedder, tokenizer = run.embedder, run.lvlm.processor.tokenizer
    longs = [caption_ids(tokenizer, caption) for caption in LONG]
    sequences = image_sequences(run.lvlm.processor, run.pictures, embedder.image_prompt, longs)
    sequences = sequences.to(embedder.device)
    with torch.inference_mode():
        behind = summary_embeddings(embedder.hidden_states(sequences), sequences).cpu()
    return _close(run, behind, embedder.encode_image(run.pictures))


def _one_step_lowers_the_loss(run: _Run) -> str:
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
    if _fingerprint(model) != run.before["fingerprint"]:
        raise NotHeld("the step changed weights of the base")
    return f"{float(before.detach()):.4f} to {after:.4f}; the base's bytes are what they were"


def _said(run: _Run) -> dict[str, Any]:
    """What the model answers, as numbers: logits with and without a picture, and a greedy answer."""
    model, said = run.lvlm.model, {"fingerprint": _fingerprint(run.lvlm.model)}
    question = [{"type": "text", "text": QUESTION}]
    pictured = [{"type": "image"}, *question]
    for kind, content, picture in (("text", question, None), ("image", pictured, run.pictures[1])):
        batch = _own_batch(run, content, picture)
        with torch.inference_mode():
            said[f"{kind} logits"] = model(**batch, use_cache=False).logits
            said[f"{kind} answer"] = model.generate(**batch, max_new_tokens=8, do_sample=False)
    return said


def _off_is_the_base(run: _Run) -> str:
    embedder = run.embedder
    changed = not torch.equal(embedder.encode_text(CAPTIONS), run.baseline.encode_text(CAPTIONS))
    if not changed:
        raise NotHeld("the adapter changes nothing: was the step of training done?")
    with embedder.base():
        now = _said(run)
    for name, value in run.before.items():
        same = torch.equal(value, now[name]) if isinstance(value, Tensor) else value == now[name]
        if not same:
            raise NotHeld(f"with the adapter off the {name} differs from the untouched model's")
    return "after training, logits and greedy answers are bit-equal to the untouched model's"


def _saved_is_loaded(run: _Run) -> str:
    embedder = run.embedder
    before = [embedder.encode_image(run.pictures), embedder.encode_text(CAPTIONS)]
    names = len(adapter_state(run.lvlm))
    with tempfile.TemporaryDirectory() as parent:
        folder = embedder.save_pretrained(Path(parent) / "adapter")
        detach_adapter(run.lvlm)
        run._embedder = again = Embedder.from_pretrained(folder, run.lvlm)
        after = [again.encode_image(run.pictures), again.encode_text(CAPTIONS)]
        if not all(torch.equal(one, other) for one, other in zip(before, after, strict=True)):
            raise NotHeld("what was loaded embeds otherwise than what was saved")
        _refuses_other_keys(run, folder)
    return f"bit-equal; a missing and an unexpected one of {names} tensors are refused"


def _refuses_other_keys(run: _Run, folder: Path) -> None:
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


def _fingerprint(model: torch.nn.Module) -> str:
    """A digest of the base's weights, whatever is attached to them."""
    digest = hashlib.blake2b()
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0].replace(".base_layer", "")):
        if not re.search(r"lora_|soft_prompt|temperature", name):
            digest.update(parameter.detach().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


# in the order in which one copy of the model goes through them: untouched, attached, trained, off, loaded again
_CHECKS: Sequence[tuple[int, str, Callable[[_Run], str]]] = (
    (1, "embeddings equal the family's own forward", _equals_own_forward),
    (2, "a batch of one equals a batch of many", _one_equals_many),
    (7, "another picture is another embedding, special tokens in captions are text", _reads_pictures_and_only_them),
    (3, "only soft prompts, the LLM's LoRA and the temperature learn", _only_what_should_learns),
    (6, "a long caption behind it leaves the summary as it is", _caption_behind_changes_nothing),
    (8, "one training step lowers the loss and leaves the base alone", _one_step_lowers_the_loss),
    (5, "with the adapter off it is the base, bit for bit", _off_is_the_base),
    (4, "what is saved is what is loaded", _saved_is_loaded),
)
