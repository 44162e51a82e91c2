"""Probe the summary token: embedding, next-token distribution and attention from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vladva_kit.embedder.embedder import Embedder, summary_states
from vladva_kit.embedder.prompts import ModelInputs, image_inputs, text_inputs
from vladva_kit.models.images import ImageLike, open_image, open_images
from vladva_kit.models.load import LVLM

NO_ATTENTION = partial(nullcontext, [])
_ATTENTION = "vladva_summary_row"  # temporary key in the attention registries of transformers


@dataclass(frozen=True)
class SummaryProbe:
    """Measurements at the summary tokens of n images or texts, as arrays."""

    embeddings: np.ndarray  # (n, dim) float32, unit length
    entropy: np.ndarray  # (n,) of the next-token distribution, in nats
    tokens: np.ndarray = field(repr=False)  # (n, k) most likely next tokens, most likely first
    probabilities: np.ndarray = field(repr=False)  # (n, k) their probabilities
    attention: np.ndarray | None = field(default=None, repr=False)  # (n, layers, heads, image tokens)
    grid: tuple[int, int] | None = None  # rows and columns of patches, if all images have the same

    @property
    def mass(self) -> np.ndarray:
        """Share of the attention on the image, 0 to 1: (n, layers, heads)."""
        return self._recorded_attention().sum(-1)

    @property
    def density(self) -> np.ndarray:
        """Spread of the attention over the image, up to 1: (n, layers, heads).

        The perplexity of the attention within the image, divided by the number of image tokens: 1 is uniform, near 0 is
        a single token. The paper reports denser attention after training and gives no formula.
        """
        within = self._recorded_attention() / np.maximum(self.mass[..., None], 1e-12)
        entropy = -(within * np.log(np.maximum(within, 1e-12))).sum(-1)
        return np.exp(entropy) / within.shape[-1]

    @property
    def maps(self) -> np.ndarray:
        """Attention on each patch, without a class token: (n, layers, heads, rows, columns).

        Raises ValueError if the images have different grids or were split into tiles.
        """
        attention = self._recorded_attention()
        if self.grid is None:
            raise ValueError(
                f"{attention.shape[-1]} image tokens do not form one grid of patches: probe one image at a time; for a "
                "family that splits images into tiles, use `attention`, which keeps the model's token order"
            )
        rows, columns = self.grid
        return attention[..., attention.shape[-1] - rows * columns :].reshape(*attention.shape[:-1], rows, columns)

    def _recorded_attention(self) -> np.ndarray:
        if self.attention is None:
            raise ValueError("no attention was recorded: call probe_images(…, attention=True)")
        return self.attention


def probe_images(
    embedder: Embedder,
    images: Sequence[ImageLike],
    attention: bool = False,
    k: int = 10,
    batch_size: int = 64,
) -> SummaryProbe:
    """Measure embedding, entropy, top-k next tokens and, on request, attention of images in one forward pass each.

        probe_images(embedder, images, attention=True).density.mean()
        with embedder.base(): probe_images(embedder, images)          # before fine-tuning

    Raises ValueError for no images and, with `attention`, for images with different numbers of tokens.
    """
    starts = range(0, len(images), batch_size)
    opened = (open_images(images[start : start + batch_size], start) for start in starts)
    batches = (image_inputs(embedder.lvlm.processor, batch, embedder.image_prompt) for batch in opened)
    return _concatenate([_probe(embedder, batch, k, attention) for batch in batches])


def probe_texts(embedder: Embedder, texts: Sequence[str], k: int = 10, batch_size: int = 256) -> SummaryProbe:
    """Measure texts as `probe_images` does images, without attention: `probe_texts(embedder, ["a dog"]).tokens[0]`."""
    tokenizer, starts = embedder.lvlm.processor.tokenizer, range(0, len(texts), batch_size)
    batches = (text_inputs(tokenizer, texts[start : start + batch_size], embedder.text_prompt) for start in starts)
    return _concatenate([_probe(embedder, batch, k, attention=False) for batch in batches])


def _probe(embedder: Embedder, batch: ModelInputs, k: int, attention: bool) -> SummaryProbe:
    lvlm, batch = embedder.lvlm, batch.to(embedder.device)
    image = batch.inputs["input_ids"] == lvlm.model.config.image_token_id
    recorder = partial(summary_attention, lvlm, batch.summary_positions, image) if attention else NO_ATTENTION
    with embedder.inference(), recorder() as layers:
        states = summary_states(embedder.hidden_states(batch), batch)
        log_probabilities = embedder.logits(states).float().log_softmax(-1)  # of the summary tokens only
    top = log_probabilities.topk(k, dim=-1)
    decode = lvlm.processor.tokenizer.decode
    return SummaryProbe(
        embeddings=torch.nn.functional.normalize(states.float(), dim=-1).cpu().numpy(),
        entropy=-(log_probabilities.exp() * log_probabilities.clamp(min=-1e4)).sum(-1).cpu().numpy(),
        tokens=np.array([[decode([token]).strip() for token in row] for row in top.indices.tolist()]),
        probabilities=top.values.exp().cpu().numpy(),
        attention=torch.stack(layers or [], dim=1).cpu().numpy() if attention else None,
        grid=patch_grid(lvlm, batch.inputs, int(image[0].sum())) if attention else None,
    )


def _concatenate(parts: list[SummaryProbe]) -> SummaryProbe:
    if not parts:
        raise ValueError("nothing to probe: give at least one image or text")
    names = ["embeddings", "entropy", "tokens", "probabilities"]
    names += ["attention"] if parts[0].attention is not None else []
    grids = {part.grid for part in parts}
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return SummaryProbe(**arrays, grid=grids.pop() if len(grids) == 1 else None)


@contextmanager
def summary_attention(lvlm: LVLM, summary: Tensor, image: Tensor) -> Iterator[list[Tensor]]:
    """Record each layer's attention (batch, heads, image tokens) from the summary token inside the `with` block.

        with summary_attention(lvlm, batch.summary_positions, batch.inputs["input_ids"] == image_token_id) as layers:
            lvlm.model.model(**batch.inputs)

    summary: (batch,) index of the summary token; image: (batch, length) bool mask of the image tokens, with the same
    number for each image. The LLM still runs SDPA, which returns no weights; the summary token's are computed in
    addition. Raises ValueError if the numbers of image tokens differ or the LLM does not allow another attention.
    """
    counts = image.sum(1)
    if (counts != counts[0]).any() or not counts[0]:
        raise ValueError(f"images with {sorted(set(counts.tolist()))} image tokens: pass images of one size per call")
    layers: list[Tensor] = []

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
        weights = _summary_weights(query, key, mask, summary, options.get("scaling"))
        layers.append(weights.masked_select(image[:, None]).view(*weights.shape[:2], -1))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **options)

    decoder = lvlm.model.get_decoder()
    original = decoder.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[_ATTENTION] = attend
    ALL_MASK_ATTENTION_FUNCTIONS[_ATTENTION] = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    try:
        decoder.set_attn_implementation(_ATTENTION)
        if decoder.config._attn_implementation != _ATTENTION:
            raise ValueError(f"{lvlm.name}: its LLM does not allow another attention, so none can be recorded")
        yield layers
    finally:
        decoder.set_attn_implementation(original)
        del ALL_ATTENTION_FUNCTIONS[_ATTENTION], ALL_MASK_ATTENTION_FUNCTIONS[_ATTENTION]


def _summary_weights(query: Tensor, key: Tensor, mask: Tensor | None, summary: Tensor, scale: float | None) -> Tensor:
    """Compute the softmax weights (batch, heads, length) of the summary token in float32."""
    batch = torch.arange(len(query), device=query.device)
    queries = query[batch, :, summary].float()  # (batch, heads, dim)
    keys = key.float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # grouped-query attention
    logits = torch.einsum("bhd,bhld->bhl", queries, keys) * (scale or queries.shape[-1] ** -0.5)
    if mask is None:  # SDPA passes no mask for causal attention without padding
        visible = torch.arange(keys.shape[2], device=keys.device) <= summary[:, None]
        return logits.masked_fill(~visible[:, None], float("-inf")).softmax(-1)
    row = mask.expand(len(query), *mask.shape[1:])[batch, :, summary]
    return (logits.masked_fill(~row, float("-inf")) if row.dtype == torch.bool else logits + row).softmax(-1)


def patch_grid(lvlm: LVLM, inputs: Mapping[str, Tensor], n_tokens: int) -> tuple[int, int] | None:
    """Return (rows, columns) of the patches that are an image's `n_tokens`, or None if they do not form one grid.

    patch_grid(lvlm, batch.inputs, 65)    # (8, 8): a class token precedes 64 patches

    Qwen's processor returns the grid. Other families have square grids, unless the image was split into tiles.
    """
    if "image_grid_thw" in inputs:
        merge_size = lvlm.model.config.vision_config.spatial_merge_size
        grids = {(int(rows) // merge_size, int(columns) // merge_size) for _, rows, columns in inputs["image_grid_thw"]}
        return grids.pop() if len(grids) == 1 else None
    if "pixel_values" not in inputs or math.prod(inputs["pixel_values"].shape[:-3]) != len(inputs["input_ids"]):
        return None
    side = math.isqrt(n_tokens)
    return (side, side) if n_tokens - side**2 in (0, 1) else None


def encoder_crop(lvlm: LVLM, image: ImageLike) -> Image.Image:
    """Crop an image to the region that the image encoder sees, which an attention map covers.

    encoder_crop(lvlm, Image.new("RGB", (400, 300))).size    # (300, 300) if the processor crops, as LLaVA-1.5's does
    """
    image, processor = open_image(image), lvlm.processor.image_processor
    if not getattr(processor, "do_center_crop", False):
        return image
    crop = processor.crop_size
    scale = min(image.size) / (dict(processor.size).get("shortest_edge") or crop["height"])
    width, height = (
        min(size, round(crop[name] * scale)) for size, name in zip(image.size, ("width", "height"), strict=True)
    )
    left, upper = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, upper, left + width, upper + height))
