"""How much memory an LVLM takes, from its config alone: weights counted on the meta device, activations by formula."""

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

from vladva_kit.embedder.soft_prompt import llm_linear_pattern
from vladva_kit.models.families import Family, family_of
from vladva_kit.models.hub import download
from vladva_kit.models.load import resolve
from vladva_kit.training.losses import MAX_LOGITS_PER_CHUNK

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PUBLISHED = Path(__file__).parent / "published_configs.json"
GIB = 2**30
CARDS = {"T4, 15 GiB": 15, "24 GiB": 24, "80 GiB": 80}  # GiB that the card's owner can use
CONTEXT = 0.6 * GIB  # CUDA's own, before the first tensor
SLACK = 1.1  # what an allocator leaves between blocks
LORA_STEP = 16  # bytes for a weight that learns: itself, its gradient and AdamW's two moments, in float32


@dataclass(frozen=True)
class Lengths:
    """How long the rows of a batch are, in tokens."""

    image: int  # picture, prompt and long caption
    text: int  # short caption and prompt
    caption: int  # the long caption alone: its tokens meet the head
    patches: int  # of a picture, in the vision tower


@dataclass(frozen=True)
class Memory:
    """Bytes, by what takes them."""

    weights: int  # of the base, frozen
    adapter: int  # LoRA and soft prompts, with gradients and moments where they learn
    activations: int  # the most at any time

    @property
    def total(self) -> int:
        """All of it; a CUDA context and the allocator's gaps come on top."""
        return self.weights + self.adapter + self.activations

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
    """Memory for encoding or training a batch, from the config alone.

        estimate_memory("llava-hf/llava-1.5-7b-hf", batch_size=8, mode="train")    # 50.87 GiB (weights 13.16, …)

    The weights are exact. Activations are a formula over the LLM's layers, held to within a factor of 2 of what tiny
    models of each family allocate on a CPU. lengths: by default a picture of max_pixels, 30 tokens of prompt, 20 of a
    short and 100 of a long caption. Training is `fit`'s: LoRA of this rank in float32, no gradient checkpointing.
    Raises ValueError for another mode, a batch_size below 1, or a name that leads nowhere.
    """
    if mode not in ("encode", "train") or batch_size < 1:
        raise ValueError(f"mode={mode!r}, batch_size={batch_size}: mode is 'encode' or 'train', batch_size 1 or more")
    config = config_of(name_or_config)
    weights, linear, targets = _counted(config)
    family = family_of(config)
    lengths = lengths or typical_lengths(config, family, max_pixels)
    lora = rank * targets + 60 * config.get_text_config().hidden_size
    held = weights * dtype.itemsize
    if four_bit:  # NF4: half a byte a weight and a scale for each 64; embeddings, norms and the head stay
        held -= round(linear * (dtype.itemsize - 0.5 - 4 / 64))
    activations = _step(config, batch_size, lengths, dtype) if mode == "train" else 0
    activations += _passing(config, batch_size, lengths, dtype, mode)
    return Memory(held, lora * (LORA_STEP if mode == "train" else 4), activations)


def config_of(name_or_config: str | PreTrainedConfig | Mapping[str, Any]) -> PreTrainedConfig:
    """A config as it is, from a dict, from a folder, or from the hub, of which only config.json is downloaded."""
    from transformers import AutoConfig

    if isinstance(name_or_config, str):
        if name_or_config in published_configs():
            return config_of(published_configs()[name_or_config])
        source = resolve(name_or_config)
        folder = source if Path(source).is_dir() else download(source, ("config.json",))
        return AutoConfig.from_pretrained(folder)
    if isinstance(name_or_config, Mapping):
        return AutoConfig.for_model(**name_or_config)
    return name_or_config


def published_configs() -> dict[str, dict[str, Any]]:
    """The shapes of some published LVLMs by hub id, as their config.json has them (the file says how that is known)."""
    return json.loads(PUBLISHED.read_text())["configs"]


def model_without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    """The model on the meta device: all shapes, no memory."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(copy.deepcopy(config))


_COUNTS: dict[str, tuple[int, int, int]] = {}  # by config: a table asks for the same one many times


def _counted(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Weights, those of linear layers that 4 bits are for, and LoRA's a unit of rank."""
    key = config.to_json_string(use_diff=False)
    if key not in _COUNTS:
        model = model_without_weights(config)
        pattern = llm_linear_pattern(model)
        linears = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        _COUNTS[key] = (
            sum(parameter.numel() for parameter in model.parameters()),
            sum(part.weight.numel() for name, part in linears.items() if "lm_head" not in name),
            sum(part.in_features + part.out_features for name, part in linears.items() if re.fullmatch(pattern, name)),
        )
    return _COUNTS[key]


def typical_lengths(
    config: PreTrainedConfig, family: Family, max_pixels: int, prompt: int = 30, short: int = 20, long: int = 100
) -> Lengths:
    """The rows' lengths for a picture of so many pixels: `typical_lengths(config, family, 512 * 512).image`."""
    tokens, patches = _picture(config, family, max_pixels)
    return Lengths(tokens + prompt + long, short + prompt, long, patches)


def _picture(config: PreTrainedConfig, family: Family, max_pixels: int) -> tuple[int, int]:
    """A picture's tokens in the LLM and its patches in the tower."""
    vision = config.vision_config
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    if family.resolution_control == "pixels":
        patches = max(vision.spatial_merge_size**2, max_pixels // patch**2)
        return patches // vision.spatial_merge_size**2, patches
    size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    a_tile = (size // patch) ** 2
    if family.resolution_control == "edge":
        side = max(1, math.isqrt(max_pixels) // size)
        tiles = side**2 + (side > 1)  # and the whole picture, small
        return tiles * (a_tile // config.scale_factor**2 + 3), tiles * a_tile
    grids = getattr(config, "image_grid_pinpoints", None)  # the whole picture goes before its tiles, even before one
    if family.resolution_control == "tiles" or grids:
        most = min(12, max(height * width for height, width in grids) // size**2) if grids else 12
        tiles = min(most, max(1, max_pixels // size**2))
        tiles += tiles > 1 or bool(grids)
        return tiles * getattr(config, "image_seq_length", a_tile), tiles * a_tile
    if hasattr(vision, "max_num_tiles"):  # the LLM looks at the tower's states from the side
        return 1, vision.max_num_tiles * (a_tile + 1)
    return getattr(config, "mm_tokens_per_image", a_tile), a_tile


def _heads(text: PreTrainedConfig) -> int:
    return text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _scores(text: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes for a pair of tokens in a layer: capped attention, as Gemma 2's, is written out, score by score."""
    capped = getattr(text, "attn_logit_softcapping", None)
    return text.num_attention_heads * (2 * dtype.itemsize + 4) if capped else 0


def _step(config: PreTrainedConfig, batch: int, lengths: Lengths, dtype: torch.dtype) -> int:
    """What a step of training keeps for its way back: each layer's inputs, and what goes back to the captions' states.

    Logits are not kept (see losses.next_token).
    """
    text = config.get_text_config()
    hidden, inner, heads = text.hidden_size, text.intermediate_size, _heads(text)
    # the norms' inputs, LoRA's inputs, queries, keys, values and what comes of them, the gate's three and their product
    a_token = 4 * (4 * hidden + 5 * heads + 4 * inner)
    if dtype.itemsize == 2:  # the norms work in float32; autocast gives each of the seven LoRA layers its own input
        a_token = 18 * hidden + 10 * heads + 8 * inner
    tokens = batch * (lengths.image + lengths.text)
    kept = tokens * a_token * text.num_hidden_layers
    squares = batch * (lengths.image**2 + lengths.text**2)
    kept += squares * _scores(text, dtype) * text.num_hidden_layers
    return kept + batch * lengths.caption * hidden * dtype.itemsize


def _passing(config: PreTrainedConfig, batch: int, lengths: Lengths, dtype: torch.dtype, mode: str) -> int:
    """The most that is alive at once while a batch passes a layer of the tower, a layer of the LLM, or the head."""
    text, vision, size = config.get_text_config(), config.vision_config, dtype.itemsize
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or 4 * width
    tower = batch * lengths.patches * size * (4 * width + 2 * inner)
    image = lengths.image if mode == "train" else lengths.image - lengths.caption
    tokens = batch * max(image, lengths.text)
    llm = tokens * (size * (3 * text.hidden_size + max(3 * text.intermediate_size, 4 * _heads(text))) + 4)
    llm = max(llm, tokens * max(image, lengths.text) * _scores(text, dtype))
    logits = min(batch * lengths.caption * text.vocab_size, MAX_LOGITS_PER_CHUNK)
    head = logits * (size + 12) if mode == "train" else 0  # in float32 thrice: logits, their softmax and its gradient
    return max(tower, llm, head)


def largest_batch(name_or_config: Any, gib: float, limit: int = 1024, **estimate: Any) -> int:
    """The largest power of two that fits a card of so many GiB, up to `limit`; 0 where not even one does.

    largest_batch("llava-hf/llava-1.5-7b-hf", 24, mode="encode")
    """
    config, best = config_of(name_or_config), 0
    for batch in (2**power for power in range(limit.bit_length())):
        needed = estimate_memory(config, batch_size=batch, **estimate)
        if needed.total * SLACK + CONTEXT > gib * GIB:
            break
        best = batch
    return best


def memory_table(names: list[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of a table: for each model the weights and the largest batches on three sizes of card.

    heading, rows = memory_table(["Qwen/Qwen2-VL-2B-Instruct"])
    """
    head = ["model", "weights, GiB", *(f"{card}: {mode}" for card in CARDS for mode in ("encode", "train"))]
    lines = []
    for name in names or list(published_configs()):
        weights = estimate_memory(name, batch_size=1).weights / GIB
        cells = []
        for gib in CARDS.values():
            for mode in ("encode", "train"):
                whole = largest_batch(name, gib, mode=mode)
                small = 0 if whole else largest_batch(name, gib, mode=mode, four_bit=True)
                cells.append(str(whole) if whole else f"{small} in 4 bits" if small else "—")
        lines.append([name, f"{weights:.1f}", *cells])
    return head, lines
