"""Estimate GPU memory from a config: weights are counted on the meta device, activations follow a formula."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vladva_kit.embedder.activations import GIB, Lengths, attention_width, peak_of_a_module, score_bytes
from vladva_kit.embedder.soft_prompt import llm_linear_pattern
from vladva_kit.models.families import family_of
from vladva_kit.models.hub import download
from vladva_kit.models.load import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from vladva_kit.embedder.embedder import Embedder
    from vladva_kit.training.collator import Batch

PUBLISHED_CONFIGS = Path(__file__).parent / "published_configs.json"
GPUS = {"T4, 15 GiB": 15, "24 GiB": 24, "80 GiB": 80}  # usable GiB
MODES = ("encode", "train")
CUDA_CONTEXT = 0.6 * GIB  # allocated before the first tensor
ALLOCATOR_OVERHEAD = 1.1  # factor for fragmentation
BYTES_PER_TRAINABLE = 16  # parameter, gradient and AdamW's two moments, in float32
SOFT_PROMPT_TOKENS = 60  # of both prompts together


@dataclass(frozen=True)
class Memory:
    """Estimated bytes by part."""

    weights: int  # of the frozen base model
    adapter: int  # LoRA and soft prompts, in training with their gradients and moments
    activations: int  # at the peak

    @property
    def total(self) -> int:
        """The sum of the parts, without the overhead of CUDA and its allocator."""
        return self.weights + self.adapter + self.activations

    @property
    def required(self) -> float:
        """Bytes that a GPU must have: the total, with the overhead of CUDA and its allocator."""
        return self.total * ALLOCATOR_OVERHEAD + CUDA_CONTEXT

    def __str__(self) -> str:
        parts = (f"{name} {getattr(self, name) / GIB:.2f}" for name in ("weights", "adapter", "activations"))
        return f"{self.total / GIB:.2f} GiB ({', '.join(parts)})"


def estimate_memory(
    name_or_config: str | PreTrainedConfig | Mapping[str, Any],
    *,
    batch_size: int,
    mode: Literal["encode", "train"] = "encode",
    dtype: torch.dtype = torch.bfloat16,
    four_bit: bool = False,
    rank: int = 16,
    max_pixels: int = 512 * 512,
    lengths: Lengths | None = None,
) -> Memory:
    """Estimate the memory for encoding or training a batch, from the config alone.

        estimate_memory("llava-hf/llava-1.5-7b-hf", batch_size=8, mode="train")    # 50.78 GiB (weights 13.16, …)

    Weights are exact. Activations follow a formula over the LLM's layers, tested to within a factor of 2 against tiny
    models of each family on a CPU. Training is `fit`'s: LoRA of this rank in float32, no gradient checkpointing.
    lengths: by default those of an image of max_pixels, a prompt of 30 tokens, a short caption of 20 and a long caption
    of 100. Raises ValueError for another mode, a batch_size below 1, or an unknown name.
    """
    if mode not in MODES or batch_size < 1:
        raise ValueError(f"mode={mode!r}, batch_size={batch_size}: mode is 'encode' or 'train', batch_size 1 or more")
    config = config_of(name_or_config)
    n_weights, n_linear, lora_per_rank = _count_weights(config)
    lengths = lengths or typical_lengths(config, max_pixels)
    weights = n_weights * dtype.itemsize
    if four_bit:  # NF4: half a byte per weight and a 4-byte scale per 64; embeddings, norms and the head stay in dtype
        weights -= round(n_linear * (dtype.itemsize - 0.5 - 4 / 64))
    n_adapter = rank * lora_per_rank + SOFT_PROMPT_TOKENS * config.get_text_config().hidden_size
    adapter = n_adapter * (BYTES_PER_TRAINABLE if mode == "train" else 4)
    activations = _stored_for_backward(config, batch_size, lengths, dtype) if mode == "train" else 0
    return Memory(weights, adapter, activations + peak_of_a_module(config, batch_size, lengths, dtype, mode))


def config_of(name_or_config: str | PreTrainedConfig | Mapping[str, Any]) -> PreTrainedConfig:
    """Return a config: as given, or from a dict, a folder or a hub id; only config.json is downloaded.

    config_of("Qwen/Qwen2-VL-2B-Instruct").model_type    # "qwen2_vl"
    """
    from transformers import AutoConfig

    if isinstance(name_or_config, str):
        if (published := published_configs().get(name_or_config)) is not None:
            return AutoConfig.for_model(**published)
        source = resolve(name_or_config)
        return AutoConfig.from_pretrained(source if Path(source).is_dir() else download(source, ("config.json",)))
    return AutoConfig.for_model(**name_or_config) if isinstance(name_or_config, Mapping) else name_or_config


def published_configs() -> dict[str, dict[str, Any]]:
    """Return the config.json of some published LVLMs by hub id, shapes only; the file states the source of each."""
    return json.loads(PUBLISHED_CONFIGS.read_text())["configs"]


def model_without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    """Create the model on the meta device: it has all shapes and takes no memory."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(copy.deepcopy(config))


_weight_counts: dict[str, tuple[int, int, int]] = {}  # by config: `memory_table` estimates each one many times


def _count_weights(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Count all weights, those of linear layers that 4 bits apply to, and LoRA's weights per unit of rank."""
    key = config.to_json_string(use_diff=False)
    if key not in _weight_counts:
        model = model_without_weights(config)
        pattern = llm_linear_pattern(model)
        linears = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        _weight_counts[key] = (
            sum(parameter.numel() for parameter in model.parameters()),
            sum(part.weight.numel() for name, part in linears.items() if "lm_head" not in name),
            sum(part.in_features + part.out_features for name, part in linears.items() if re.fullmatch(pattern, name)),
        )
    return _weight_counts[key]


def typical_lengths(config: PreTrainedConfig, max_pixels: int) -> Lengths:
    """Return the lengths for images of `max_pixels`, prompts of 30 tokens, short captions of 20, long ones of 100.

    typical_lengths(config, 512 * 512).image
    """
    tokens, patches = image_tokens_and_patches(config, max_pixels)
    return Lengths(image=tokens + 30 + 100, text=20 + 30, caption=100, patches=patches)


def image_tokens_and_patches(config: PreTrainedConfig, max_pixels: int) -> tuple[int, int]:
    """Return an image's tokens in the LLM and its patches in the vision encoder.

    image_tokens_and_patches(config_of("llava-hf/llava-1.5-7b-hf"), 512 * 512)    # (576, 576)
    """
    family, vision = family_of(config), config.vision_config
    patch_size = _edge(vision.patch_size)
    if family.resolution_control == "pixels":
        patches = max(vision.spatial_merge_size**2, max_pixels // patch_size**2)
        return patches // vision.spatial_merge_size**2, patches
    size = _edge(vision.image_size)
    per_tile = (size // patch_size) ** 2  # patches
    if family.resolution_control == "edge":
        side = max(1, math.isqrt(max_pixels) // size)
        tiles = side**2 + (side > 1)  # several tiles come with a small copy of the image
        return tiles * (per_tile // config.scale_factor**2 + 3), tiles * per_tile
    grids = getattr(config, "image_grid_pinpoints", None)  # with grids the copy is there even for a single tile
    if family.resolution_control == "tiles" or grids:
        max_tiles = min(12, max(height * width for height, width in grids) // size**2) if grids else 12
        tiles = min(max_tiles, max(1, max_pixels // size**2))
        tiles += tiles > 1 or bool(grids)
        return tiles * getattr(config, "image_seq_length", per_tile), tiles * per_tile
    if hasattr(vision, "max_num_tiles"):  # mllama: the LLM reads the image by cross-attention
        return 1, vision.max_num_tiles * (per_tile + 1)
    return getattr(config, "mm_tokens_per_image", per_tile), per_tile


def _edge(size: Any) -> int:
    return size if isinstance(size, int) else size[0]


def _stored_for_backward(config: PreTrainedConfig, batch: int, lengths: Lengths, dtype: torch.dtype) -> int:
    """Return the bytes stored for the backward pass: inputs of each layer, gradients of the long captions' states.

    Logits are not stored (see losses.next_token_loss).
    """
    text = config.get_text_config()
    hidden, inner, heads = text.hidden_size, text.intermediate_size, attention_width(text)
    # inputs of the norms and of LoRA; queries, keys, values and their output; the MLP's gate, up, activation, product
    per_token = 4 * (4 * hidden + 5 * heads + 4 * inner)
    if dtype.itemsize == 2:  # norms compute in float32; autocast copies the input of each of the seven LoRA layers
        per_token = 18 * hidden + 10 * heads + 8 * inner
    tokens = batch * (lengths.image + lengths.text)
    token_pairs = batch * (lengths.image**2 + lengths.text**2)
    layers = (tokens * per_token + token_pairs * score_bytes(text, dtype)) * text.num_hidden_layers
    return layers + batch * lengths.caption * hidden * dtype.itemsize


def train_estimate(embedder: Embedder, batch: Batch, rows: int) -> str:
    """Say what a step over `rows` of a batch's rows takes: `train_estimate(embedder, batch, 8)` is ", about 50 GiB …".

    It is "" for a config that the formula does not know.
    """
    model, images, texts = embedder.lvlm.model, batch.images.inputs, batch.texts
    try:
        caption = 0 if batch.images.labels is None else int((batch.images.labels >= 0).sum(1).max())
        text = 0 if texts is None else texts.inputs["attention_mask"].shape[1]
        patches = typical_lengths(model.config, embedder.lvlm.family.max_pixels or 512 * 512).patches
        lora = (embedder.config.lora if embedder.config else None) or {}
        needed = estimate_memory(
            model.config, batch_size=rows, mode="train", dtype=model.dtype,
            four_bit=bool(getattr(model, "is_quantized", False)), rank=lora.get("r", 1),
            lengths=Lengths(images["attention_mask"].shape[1], text, caption, patches),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return ""
    return f", which needs about {needed}"


def largest_batch(name_or_config: Any, gib: float, **estimate: Any) -> int:
    """Return the largest power of two, up to 1,024, that fits a GPU of `gib` GiB; 0 if not even one row fits.

    largest_batch("llava-hf/llava-1.5-7b-hf", 24, mode="encode")    # 128
    """
    config, sizes = config_of(name_or_config), [2**power for power in range(10, -1, -1)]
    fits = (size for size in sizes if estimate_memory(config, batch_size=size, **estimate).required <= gib * GIB)
    return next(fits, 0)


def memory_table(names: list[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of a table: the weights and the largest batches of each model on three GPU sizes.

    heading, rows = memory_table(["Qwen/Qwen2-VL-2B-Instruct"])
    """
    heading = ["model", "weights, GiB", *(f"{gpu}: {mode}" for gpu in GPUS for mode in MODES)]
    rows = []
    for name in names or list(published_configs()):
        cells = [_batch_cell(name, gib, mode) for gib in GPUS.values() for mode in MODES]
        rows.append([name, f"{estimate_memory(name, batch_size=1).weights / GIB:.1f}", *cells])
    return heading, rows


def _batch_cell(name: str, gib: float, mode: str) -> str:
    if batch := largest_batch(name, gib, mode=mode):
        return str(batch)
    batch = largest_batch(name, gib, mode=mode, four_bit=True)
    return f"{batch} in 4 bits" if batch else "—"
