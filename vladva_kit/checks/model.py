"""One model on its way through the checks: what it is shown and asked, what it said, and how near is near enough."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vladva_kit.embedder.embedder import Embedder, attach
from vladva_kit.embedder.prompts import begins_with_bos
from vladva_kit.models.load import LVLM

QUESTION = "What is in the picture?"
CAPTIONS = ("a dog", "two red balls lie on green grass", "a cat under a blue table, left of the door")
LONG = (
    "A small dog stands in front of a house; behind it, there are trees and a gray sky.",
    "Two red balls lie on green grass, and the larger one is on the left of the smaller one, near the water.",
    "A cat.",
)


class NotHeld(AssertionError):
    """A check does not hold; the message says what was measured."""


@dataclass
class CheckedModel:
    """One model on its way through the checks."""

    lvlm: LVLM
    pictures: list[Image.Image]
    before: dict[str, Any] = field(default_factory=dict)  # what the untouched model said
    attached: Embedder | None = None

    @cached_property
    def baseline(self) -> Embedder:
        """With the hand-written prompts; made in the first check, whose failure it is where the template is missing."""
        return Embedder(self.lvlm)

    @property
    def embedder(self) -> Embedder:
        """With something attached; what the model says before that is noted first."""
        if self.attached is None:
            self.before = said(self)
            self.attached = attach(self.lvlm, quiet=True)
        return self.attached


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


def close(run: CheckedModel, ours: Tensor, theirs: Tensor) -> str:
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


def own_batch(run: CheckedModel, content: list[dict[str, str]], picture: Image.Image | None) -> dict[str, Tensor]:
    """What the family's own processor makes of a chat, as a reader of its model card would call it."""
    processor = run.lvlm.processor
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    written = {"return_tensors": "pt", "add_special_tokens": not begins_with_bos(processor.tokenizer, text)}
    if picture is None:
        types = run.lvlm.family.text_needs_token_type_ids
        batch = processor.tokenizer(text, return_token_type_ids=types, **written)
    else:
        batch = processor(images=[[picture]], text=[text], **written)
    batch.pop("labels", None)
    return batch.to(run.lvlm.model.device)


def said(run: CheckedModel) -> dict[str, Any]:
    """What the model answers, as numbers: logits with and without a picture, and a greedy answer."""
    model, answered = run.lvlm.model, {"fingerprint": base_digest(run.lvlm.model)}
    question = [{"type": "text", "text": QUESTION}]
    pictured = [{"type": "image"}, *question]
    for kind, content, picture in (("text", question, None), ("image", pictured, run.pictures[1])):
        batch = own_batch(run, content, picture)
        with torch.inference_mode():
            answered[f"{kind} logits"] = model(**batch, use_cache=False).logits
            answered[f"{kind} answer"] = model.generate(**batch, max_new_tokens=8, do_sample=False)
    return answered


def base_digest(model: torch.nn.Module) -> str:
    """A digest of the base's weights, whatever is attached to them."""
    digest = hashlib.blake2b()
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0].replace(".base_layer", "")):
        if not re.search(r"lora_|soft_prompt|temperature", name):
            digest.update(parameter.detach().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()
