"""What the checks share: the model, its inputs, its outputs and the tolerances."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vladva_kit.embedder.embedder import Embedder, attach
from vladva_kit.embedder.identity import describe
from vladva_kit.embedder.prompts import begins_with_bos
from vladva_kit.models.chat import render_chat
from vladva_kit.models.load import LVLM

if TYPE_CHECKING:
    from transformers import GenerationMixin

QUESTION = "What is in the picture?"
CAPTIONS = ("a dog", "two red balls lie on green grass", "a cat under a blue table, left of the door")
LONG_CAPTIONS = (
    "A small dog stands in front of a house; behind it, there are trees and a gray sky.",
    "Two red balls lie on green grass, and the larger one is on the left of the smaller one, near the water.",
    "A cat.",
)


class CheckFailed(AssertionError):
    """A check failed; the message says what was measured."""


@dataclass
class CheckedModel:
    """One LVLM and its embedders, shared by all checks."""

    lvlm: LVLM
    images: list[Image.Image]
    reference: dict[str, Any] = field(default_factory=dict)  # `base_outputs` before an adapter was attached
    adapted: Embedder | None = None

    @cached_property
    def base(self) -> Embedder:
        """The base embedder. Built on first use, so a missing chat template fails a check instead of the run."""
        return Embedder(self.lvlm)

    @property
    def embedder(self) -> Embedder:
        """The embedder with an adapter. Attached on first use, after the untouched model's outputs are recorded."""
        if self.adapted is None:
            self.reference = base_outputs(self)
            self.adapted = attach(self.lvlm, quiet=True)
        return self.adapted


def example_images() -> list[Image.Image]:
    """Draw three images of different shapes; with dynamic resolution they give sequences of different lengths."""
    images = []
    for index, size in enumerate(((96, 96), (160, 80), (90, 150))):
        image = Image.linear_gradient("L").resize(size).convert("RGB")
        draw = ImageDraw.Draw(image)
        for circle in range(4):
            x, y = (37 * (circle + 1) * (index + 2)) % size[0], (53 * (circle + 2) * (index + 1)) % size[1]
            color = tuple((80 * circle + 60 * index + 97 * channel) % 256 for channel in range(3))
            draw.ellipse((x - 20, y - 20, x + 20, y + 20), fill=color)
        images.append(image)
    return images


def compare_embeddings(run: CheckedModel, actual: Tensor, expected: Tensor) -> str:
    """Compare unit vectors and describe the difference.

    Raises CheckFailed if they differ by more than 1e-5 in float32, or have a cosine below 0.999 in half precision.
    """
    expected = expected.to(actual)
    if run.lvlm.model.dtype == torch.float32:
        difference = float((actual - expected).abs().max())
        if not difference <= 1e-5:  # NaN fails too
            raise CheckFailed(f"max difference {difference:.1e}, allowed 1e-05")
        return f"max difference {difference:.1e}"
    cosine = float((actual * expected).sum(-1).min())
    if not cosine >= 0.999:
        raise CheckFailed(f"min cosine {cosine:.5f}, required 0.999")
    return f"min cosine {cosine:.5f}"


def processor_inputs(run: CheckedModel, text: str, image: Image.Image | None) -> dict[str, Tensor]:
    """Prepare one user turn with the model's own processor and chat template, as its model card does."""
    processor = run.lvlm.processor
    content = [{"type": "text", "text": text}]
    if image is not None:
        content.insert(0, {"type": "image"})
    prompt = render_chat(processor, [{"role": "user", "content": content}], add_generation_prompt=True)
    options = {"return_tensors": "pt", "add_special_tokens": not begins_with_bos(processor.tokenizer, prompt)}
    if image is None:
        token_types = run.lvlm.family.text_needs_token_type_ids
        batch = processor.tokenizer(prompt, return_token_type_ids=token_types, **options)
    else:
        batch = processor(images=[[image]], text=[prompt], **options)
    batch.pop("labels", None)
    return batch.to(run.lvlm.model.device)


def base_outputs(run: CheckedModel) -> dict[str, Any]:
    """Record logits and a greedy answer with and without an image, and a digest of the base weights."""
    model = run.lvlm.model
    outputs: dict[str, Any] = {"weights": describe(run.base)["weights"]}
    for kind, image in (("text", None), ("image", run.images[1])):
        batch = processor_inputs(run, QUESTION, image)
        with torch.inference_mode():
            outputs[f"{kind} logits"] = model(**batch, use_cache=False).logits
            generate = cast("GenerationMixin", model).generate
            outputs[f"{kind} answer"] = generate(**batch, max_new_tokens=8, do_sample=False)
    return outputs
