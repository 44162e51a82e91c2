"""Record how families of LVLMs differ; transformers handles everything else.

A family without a record uses the defaults, which are LLaVA's, and counts as unverified: `vk.check(lvlm)` verifies it.
If a check fails, a record in FAMILIES is the fix (CONTRIBUTING.md, "A new model family").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# PaliGemma's processor adds bos and a newline only to prompts with an image, so the template adds them to text prompts
_PALIGEMMA_TEMPLATE = (
    "{% set has_image = messages[0]['content'][0]['type'] == 'image' %}{{ '<image>' if has_image else bos_token }}"
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{{ '' if has_image else '\n' }}"
)


@dataclass(frozen=True)
class Family:
    """A family of LVLMs: how to recognize it, and where it differs from the defaults."""

    model_type: str  # in the model's config
    llm: str | None = None  # the LLM's model_type; needed if two families share the model's
    verified: bool = True  # the test suite runs the eight checks on it
    template: str | None = None  # the chat template to use if the processor has none
    prompt_suffix: str = ""  # what the processor appends to a prompt with an image
    text_needs_token_type_ids: bool = False  # text-only inputs need token_type_ids (zeros) as well
    caption_token_type_id: int = 0  # token_type_ids of a long caption, if 0 would make the prompt attend to it
    repeat_last_along_seq: tuple[str, ...] = ()  # inputs that continue with their last value, not 0, after the prefix
    capped_logits: bool = False  # logits pass through a tanh (config: final_logit_softcapping)
    processor: str | None = None  # a processor class to use if the family's own needs a missing package
    # How max_pixels is applied: resize the image, or, for an image processor that would enlarge it again, change the
    # processor's setting: a number of pixels, the longest edge of all tiles, or the number of tiles
    resolution_control: Literal["image", "pixels", "edge", "tiles"] = "image"
    max_pixels: int | None = None  # the limit passed to load_lvlm


_PALIGEMMA: dict[str, Any] = {
    "template": _PALIGEMMA_TEMPLATE,
    "prompt_suffix": "\n",
    "text_needs_token_type_ids": True,
    "caption_token_type_id": 1,
}

FAMILIES = {
    "llava": Family("llava"),
    "llava_onevision": Family("llava_onevision"),
    "qwen2_vl": Family("qwen2_vl", resolution_control="pixels"),
    "qwen2_5_vl": Family("qwen2_5_vl", resolution_control="pixels"),
    "qwen3_vl": Family("qwen3_vl", resolution_control="pixels"),
    "idefics3": Family("idefics3", resolution_control="edge"),
    # SmolVLM's processor requires num2words, for videos only; for images it writes the same as Idefics3's
    "smolvlm": Family("smolvlm", resolution_control="edge", processor="Idefics3Processor"),
    "paligemma": Family("paligemma", llm="gemma", **_PALIGEMMA),
    "paligemma2": Family("paligemma", llm="gemma2", capped_logits=True, **_PALIGEMMA),
    "gemma3": Family("gemma3"),
    "internvl": Family("internvl", resolution_control="tiles"),
    "mllama": Family("mllama", repeat_last_along_seq=("cross_attention_mask",)),
}


def family_of(config: PreTrainedConfig) -> Family:
    """Return a model's family, an unverified one with the defaults if unknown: `family_of(model.config).verified`."""
    llm = config.get_text_config().model_type
    for family in FAMILIES.values():
        if family.model_type == config.model_type and family.llm in (None, llm):
            return family
    return Family(config.model_type, verified=False)
