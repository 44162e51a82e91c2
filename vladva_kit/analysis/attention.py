"""The summary token's attention, taken down while the LVLM runs: one row a layer, never a whole matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vladva_kit.models.images import open_image
from vladva_kit.models.load import LVLM

_NAME = "vladva_summary_row"  # what transformers' registers call it while a block lasts


@contextmanager
def summary_attention(lvlm: LVLM, summary: Tensor, image: Tensor) -> Iterator[list[Tensor]]:
    """Collects each layer's attention (batch, heads, image tokens) of the summary token while the block runs the LVLM.

        with summary_attention(lvlm, sequences.summary, sequences.inputs["input_ids"] == image_id) as layers:
            lvlm.model.model(**sequences.inputs)

    summary: (batch,) the summary token's place; image: (batch, length) bool, as many True in each row. The LLM runs by
    SDPA, as ever; what SDPA does not give, the weights of this one row, is computed beside it.
    Raises ValueError when the pictures have unequal numbers of tokens, or when the LLM's attention cannot be exchanged.
    """
    counts = image.sum(1)
    if (counts != counts[0]).any() or not counts[0]:
        raise ValueError(
            f"the pictures have {sorted(set(counts.tolist()))} image tokens: give pictures of one size together"
        )
    layers: list[Tensor] = []

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **keywords: Any
    ) -> Any:
        row = _row(query, key, mask, summary, keywords.get("scaling"))
        layers.append(row.masked_select(image[:, None]).view(*row.shape[:2], -1))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **keywords)

    decoder = lvlm.model.get_decoder()
    usual = decoder.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[_NAME] = attend
    ALL_MASK_ATTENTION_FUNCTIONS[_NAME] = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    try:
        decoder.set_attn_implementation(_NAME)
        if decoder.config._attn_implementation != _NAME:
            raise ValueError(f"{lvlm.name}: its LLM has an attention of its own, which cannot be read in passing")
        yield layers
    finally:
        decoder.set_attn_implementation(usual)
        del ALL_ATTENTION_FUNCTIONS[_NAME], ALL_MASK_ATTENTION_FUNCTIONS[_NAME]


def _row(query: Tensor, key: Tensor, mask: Tensor | None, summary: Tensor, scaling: float | None) -> Tensor:
    """(batch, heads, length) softmax weights of the summary token's row, in float32."""
    batch = torch.arange(len(query), device=query.device)
    asked = query[batch, :, summary].float()  # (batch, heads, dim)
    keys = key.float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # grouped-query attention
    logits = torch.einsum("bhd,bhld->bhl", asked, keys) * (scaling or asked.shape[-1] ** -0.5)
    if mask is None:  # SDPA's shorthand for a causal mask without padding
        allowed = torch.arange(keys.shape[2], device=keys.device) <= summary[:, None]
        return logits.masked_fill(~allowed[:, None], float("-inf")).softmax(-1)
    seen = mask.expand(len(query), *mask.shape[1:])[batch, :, summary]
    return (logits.masked_fill(~seen, float("-inf")) if seen.dtype == torch.bool else logits + seen).softmax(-1)


def patch_grid(lvlm: LVLM, inputs: Mapping[str, Tensor], tokens: int) -> tuple[int, int] | None:
    """Rows and columns of the patches that a picture's `tokens` stand for; None where they are no one grid.

    patch_grid(lvlm, sequences.inputs, 65)    # (8, 8): a class token stands before 64 patches

    Qwen's own grids are read from its inputs; all others are squares, unless the picture was cut into tiles.
    """
    if "image_grid_thw" in inputs:
        merged = lvlm.model.config.vision_config.spatial_merge_size
        grids = {(int(rows) // merged, int(columns) // merged) for _, rows, columns in inputs["image_grid_thw"]}
        return grids.pop() if len(grids) == 1 else None
    if "pixel_values" not in inputs or math.prod(inputs["pixel_values"].shape[:-3]) != len(inputs["input_ids"]):
        return None
    side = math.isqrt(tokens)
    return (side, side) if tokens - side**2 in (0, 1) else None


def seen_part(lvlm: LVLM, image: Any) -> Image.Image:
    """The part of a picture that the tower reads, which a map of its patches covers: all of it, or its middle.

    seen_part(lvlm, Image.new("RGB", (400, 300))).size    # (300, 300) where the processor crops, as LLaVA-1.5's does
    """
    picture, processor = open_image(image), lvlm.processor.image_processor
    if not getattr(processor, "do_center_crop", False):
        return picture
    crop = processor.crop_size
    shortest = dict(processor.size).get("shortest_edge") or crop["height"]
    scale = min(picture.size) / shortest
    width, height = (
        min(size, round(crop[name] * scale)) for size, name in zip(picture.size, ("width", "height"), strict=True)
    )
    left, upper = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, upper, left + width, upper + height))
