"""What the model is made of: the pieces of the two sequences that it reads, and the weights of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from vladva_kit.embedder.adapter import hand_written_prompts
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import image_inputs, text_inputs
from vladva_kit.models.images import open_image

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Piece:
    """A token as it reads, or a run of `n` equal ones, and its part in the sequence."""

    text: str
    part: str  # "template", "picture", "caption", "prompt" or "summary token"
    n: int = 1


@dataclass(frozen=True)
class PartWeights:
    """How many weights a part of the model has, and how many of them learn."""

    name: str
    frozen: int
    learning: int = 0


def input_pieces(embedder: Embedder, image: Image.Image | Path | str, caption: str) -> dict[str, list[Piece]]:
    """The two sequences that the model reads, piece by piece: {"the picture": […], "the caption": […]}.

        input_pieces(embedder, picture, "a dog above a cat")["the caption"][-1].part     # "summary token"

    A soft prompt's rows read as the hand-written words that they began as.
    """
    lvlm, tokenizer = embedder.lvlm, embedder.lvlm.processor.tokenizer
    written = hand_written_prompts(lvlm, embedder.image_prompt.words, embedder.text_prompt.words)
    pictured = image_inputs(lvlm.processor, [open_image(image)], embedder.image_prompt)
    captioned = text_inputs(tokenizer, [caption], embedder.text_prompt)
    alone = text_inputs(tokenizer, [""], embedder.text_prompt)
    begins = int(alone.summary[0]) + 1 - len(written[1].ids)  # where the caption does
    rows = {}
    for name, sequences, prompt in zip(("the picture", "the caption"), (pictured, captioned), written, strict=True):
        last = int(sequences.summary[0])
        ids = sequences.inputs["input_ids"][0, : last + 1].tolist()
        ids[last + 1 - len(prompt.ids) :] = prompt.ids
        parts = []
        for place, number in enumerate(ids):
            if place == last:
                parts.append("summary token")
            elif place > last - len(prompt.ids):
                parts.append("prompt")
            elif number == lvlm.model.config.image_token_id:
                parts.append("picture")
            else:
                parts.append("caption" if name == "the caption" and place >= begins else "template")
        runs = groupby(zip(ids, parts, strict=True))
        rows[name] = [Piece(tokenizer.decode([number]), part, len(list(run))) for (number, part), run in runs]
    return rows


def part_weights(embedder: Embedder) -> list[PartWeights]:
    """The model's parts in the order in which a picture passes them, with their weights, shared ones counted once.

    part_weights(embedder)[-1]      # PartWeights("soft prompt", frozen=0, learning=2816)

    The names are the model's own, as transformers has them; the LLM and its head are one, and what `attach` put in
    place comes last.
    """
    model = embedder.lvlm.model
    counted: set[int] = set()
    llm = [model.get_decoder(), model.get_output_embeddings()]  # the head often shares its weights with the embedding
    before = [(name, [child]) for name, child in model.model.named_children() if child is not llm[0]]
    parts = []
    for name, modules in [*before, ("language model", llm)]:
        frozen = sum(_frozen(module, counted) for module in modules)
        if frozen:
            parts.append(PartWeights(name.replace("_", " "), frozen))
    if embedder.record is not None:
        parts += [PartWeights(name, 0, n) for name, n in embedder.trainable().items() if n]
    return parts


def _frozen(module: nn.Module, counted: set[int]) -> int:
    """The module's own weights; those counted before, and those that an adapter added, are left out."""
    total = 0
    for name, parameter in module.named_parameters():
        attached = "lora_" in name or "soft_prompt" in name
        if id(parameter) not in counted and not attached:
            counted.add(id(parameter))
            total += parameter.numel()
    return total
