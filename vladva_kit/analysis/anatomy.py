"""What the model reads and consists of: the tokens of its two inputs, and the parameters of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image
from torch import nn

from vladva_kit.embedder.adapter import hand_written_prompts
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import encode_caption, image_inputs, text_inputs
from vladva_kit.models.images import open_image


@dataclass(frozen=True)
class Piece:
    """A decoded token, or a run of `n` equal tokens, and the part of the input that it belongs to."""

    text: str
    part: str  # "template", "image", "caption", "prompt" or "summary token"
    n: int = 1


@dataclass(frozen=True)
class ParameterCount:
    """The frozen and the trainable parameters of one part of the model."""

    name: str
    frozen: int
    trainable: int = 0


def input_pieces(embedder: Embedder, image: Image.Image | Path | str, caption: str) -> dict[str, list[Piece]]:
    """Split the two inputs of the model into labeled tokens: {"image": […], "text": […]}.

        input_pieces(embedder, image, "a dog above a cat")["text"][-1].part     # "summary token"

    A soft prompt is shown as the hand-written tokens that it was initialized from.
    """
    lvlm, tokenizer = embedder.lvlm, embedder.lvlm.processor.tokenizer
    prompts = hand_written_prompts(lvlm, embedder.image_prompt.words, embedder.text_prompt.words)
    batches = (
        image_inputs(lvlm.processor, [open_image(image)], embedder.image_prompt),
        text_inputs(tokenizer, [caption], embedder.text_prompt),
    )
    pieces = {}
    for name, batch, prompt in zip(("image", "text"), batches, prompts, strict=True):
        n_prefix = int(batch.summary_positions[0]) + 1 - len(prompt.ids)
        prefix = batch.inputs["input_ids"][0, :n_prefix].tolist()
        if name == "image":
            parts = ["image" if token == lvlm.model.config.image_token_id else "template" for token in prefix]
        else:
            n_caption = len(encode_caption(tokenizer, caption))
            parts = ["template"] * (n_prefix - n_caption) + ["caption"] * n_caption
        parts += ["prompt"] * (len(prompt.ids) - 1) + ["summary token"]
        runs = groupby(zip([*prefix, *prompt.ids], parts, strict=True))
        pieces[name] = [Piece(tokenizer.decode([token]), part, len(list(run))) for (token, part), run in runs]
    return pieces


def parameter_counts(embedder: Embedder) -> list[ParameterCount]:
    """Count the parameters of each part, in the order in which an image passes through; shared ones count once.

        parameter_counts(embedder)[-1]      # ParameterCount("soft prompt", frozen=0, trainable=2816)

    The names are those of the transformers model. The LLM includes its output head, and the adapter's parts come last.
    """
    model = embedder.lvlm.model
    counted: set[int] = set()
    llm = [model.get_decoder(), model.get_output_embeddings()]  # the head often shares its weights with the embedding
    encoders = [(name, [child]) for name, child in model.model.named_children() if child is not llm[0]]
    loose = model.model.named_parameters(recurse=False)  # such as the image_newline of LLaVA-OneVision
    counts = [ParameterCount(name.replace("_", " "), parameter.numel()) for name, parameter in loose]
    for name, modules in [*encoders, ("language model", llm)]:
        frozen = sum(_count_base_parameters(module, counted) for module in modules)
        if frozen:
            counts.append(ParameterCount(name.replace("_", " "), frozen))
    if embedder.config is not None:
        counts += [ParameterCount(name, 0, n) for name, n in embedder.trainable().items() if n]
    return counts


def _count_base_parameters(module: nn.Module, counted: set[int]) -> int:
    """Count parameters that are not in `counted` and do not belong to an adapter; add them to `counted`."""
    total = 0
    for name, parameter in module.named_parameters():
        if id(parameter) not in counted and "lora_" not in name and "soft_prompt" not in name:
            counted.add(id(parameter))
            total += parameter.numel()
    return total
