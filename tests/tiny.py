"""A LLaVA with 0.1 million random parameters, emoji-llava's architecture and its processor, for fast tests."""

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

import vladva_kit as vk
from vladva_kit.models.families import family_of
from vladva_kit.models.load import LVLM, resolve

CAPTIONS = ["a dog on the car", "two cats near the dog"]
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_lvlm(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> LVLM:
    config = AutoConfig.from_pretrained(resolve("emoji-llava"))
    for name, value in SMALL.items():
        setattr(config.text_config, name, value)
        setattr(config.vision_config, name, value)
    config.text_config.num_key_value_heads, config.text_config.head_dim = 2, 32
    config.text_config.attention_dropout = dropout
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).to(dtype).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "norm" not in name:
            weight.normal_(0, 0.1)  # at the usual 0.02 all images have nearly the same embedding
    return LVLM("tiny", model, AutoProcessor.from_pretrained(resolve("emoji-llava")), family_of(config))


def tiny_embedder(lora_dropout: float = 0.0, dropout: float = 0.0) -> vk.Embedder:
    embedder = vk.attach(tiny_lvlm(dropout), lora={"lora_dropout": lora_dropout})
    randomize_lora(embedder)
    return embedder


def randomize_lora(embedder: vk.Embedder) -> None:
    """Set LoRA's B matrices, which start at zero and block the gradients of A, to random values."""
    torch.manual_seed(1)
    for name, weight in embedder.lvlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)


def tiny_pairs(n: int) -> list[vk.Pair]:
    """Return pairs with images of one color each; some captions repeat, some are missing, some have hard negatives."""
    pairs = []
    for i in range(n):
        image = Image.new("RGB", (64, 64), (37 * i % 256, 91 * i % 256, 255 - 53 * i % 256))
        short = None if i == 4 else f"{'a dog' if i % 3 else 'two cats'} {'on' if i % 2 else 'near'} the {i % 5} car"
        long = None if i in (2, 5) else " ".join(["a red dog stands left of a small cat"] * (1 + i % 3))
        pairs.append(vk.Pair(image, short, long, negatives=("a car",) if i % 4 == 1 else ()))
    return pairs


def small(**changes) -> vk.Settings:
    """Return settings of a run of three steps."""
    return vk.Settings(**{"steps": 3, "batch_size": 6, "warmup": 1, **changes})


def fit(embedder: vk.Embedder, settings: vk.Settings, pairs: list[vk.Pair] | None = None, **options) -> list[dict]:
    """Train on twelve tiny pairs, without a progress bar."""
    return vk.fit(embedder, pairs or tiny_pairs(12), settings, progress=False, **options)


def stop_after(steps: int):
    """Return a deadline that passes after this many steps."""
    calls = iter([False] * (steps - 1) + [True])
    return lambda: next(calls)


def gradients(embedder: vk.Embedder) -> dict[str, torch.Tensor]:
    """Return the trainable parameters' gradients by name, and clear them."""
    by_name = {}
    for name, weight in embedder.lvlm.model.named_parameters():
        if weight.requires_grad:
            by_name[name] = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
            weight.grad = None
    return by_name


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two sets of gradients, each relative to its tensor's norm."""
    assert one.keys() == other.keys() and all(other[name].abs().sum() > 0 for name in other)
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)
