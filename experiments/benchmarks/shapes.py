"""LVLMs with random weights in the shapes of real ones: the cost of a step does not depend on the weights' values.

The model class is LLaVA's and the LLM has the real one's layers, widths and vocabulary; images and captions come from
the emoji world. The vocabulary has its real size, since logits are a large part of the cost.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

import vladva_kit as vk
from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import sample_scene
from vladva_kit.models.families import family_of
from vladva_kit.models.load import LVLM, resolve


@dataclass(frozen=True)
class Shape:
    """Sizes of an LLM and a vision encoder."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int


SHAPES = {
    "tiny": Shape(64, 96, 2, 2, 2, 512, 64, 1),
    "smolvlm-2-layers": Shape(576, 1536, 2, 9, 3, 49_280, 768, 2),  # SmolVLM-256M cut down to minutes on a CPU
    "smolvlm-256m": Shape(576, 1536, 30, 9, 3, 49_280, 768, 12),
    "qwen2-vl-2b": Shape(1536, 8960, 28, 12, 2, 151_936, 1280, 32),
    "llava-1.5-7b": Shape(4096, 11_008, 32, 32, 32, 32_064, 1024, 24),
}


def random_lvlm(name: str, device: str = "cpu", dtype: str = "float32", image_side: int | None = None) -> LVLM:
    """Build an LVLM of a shape: `random_lvlm("smolvlm-2-layers")`. image_side: in pixels; larger gives more tokens.

    Raises KeyError for a shape that is not in SHAPES.
    """
    shape, config = SHAPES[name], AutoConfig.from_pretrained(resolve("emoji-llava"))
    processor = AutoProcessor.from_pretrained(resolve("emoji-llava"))
    llm, vision = config.text_config, config.vision_config
    llm.hidden_size, llm.intermediate_size, llm.num_hidden_layers = shape.hidden, shape.intermediate, shape.layers
    llm.num_attention_heads, llm.num_key_value_heads = shape.heads, shape.kv_heads
    llm.head_dim, llm.vocab_size = shape.hidden // shape.heads, shape.vocabulary
    vision.hidden_size, vision.num_hidden_layers = shape.vision_hidden, shape.vision_layers
    vision.intermediate_size, vision.num_attention_heads = 4 * shape.vision_hidden, max(1, shape.vision_hidden // 64)
    if image_side is not None:
        vision.image_size = image_side
        for size in (processor.image_processor.size, processor.image_processor.crop_size):
            for key in ("height", "width", "shortest_edge"):
                if size is not None and size.get(key):
                    size[key] = image_side
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration(config).to(getattr(torch, dtype))
    return LVLM(name, model.eval().requires_grad_(False), processor, family_of(model.config))


def trainable_embedder(
    name: str, device: str = "cpu", dtype: str = "float32", image_side: int | None = None
) -> vk.Embedder:
    """Attach soft prompts and LoRA, as in the paper, to a random LVLM: `trainable_embedder("tiny")`."""
    return vk.attach(random_lvlm(name, device, dtype, image_side), quiet=True)


def sample_pairs(n: int, seed: int = 0, longest_of: int | None = None) -> list[vk.Pair]:
    """Sample n pairs of the emoji world. longest_of: sample that many and keep those with the longest captions."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(longest_of or n)]
    captioned = [(scene, short_caption(scene, rng), long_caption(scene, rng)) for scene in scenes]
    if longest_of is not None:
        captioned = sorted(captioned, key=lambda one: -len(one[2].split()))[:n]
    return [vk.Pair(render(scene, 128), short, long) for scene, short, long in captioned]
