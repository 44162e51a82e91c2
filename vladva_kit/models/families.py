"""What differs between LVLM families, as frozen records; everything else is transformers' own.

A family that is not here gets the general path, which is that of llava; loading holds it to the eight checks and says
so. Where a check fails, a record below is what mends it (CONTRIBUTING.md, "A thirteenth family").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# PaliGemma's processor writes bos and the newline around a prompt with a picture; without one they are written here
_PALIGEMMA_TEMPLATE = (
    "{% set pictured = messages[0]['content'][0]['type'] == 'image' %}{{ '<image>' if pictured else bos_token }}"
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{{ '' if pictured else '\n' }}"
)


@dataclass(frozen=True)
class Family:
    """One family of LVLMs: how it is told apart, and where the general path would be wrong for it."""

    model_type: str  # of its config
    llm: str | None = None  # the model_type of its LLM, where two families share their own
    tested: bool = True  # whether this version holds it to the eight checks
    note: str = ""
    template: str | None = None  # the chat template, where the processor has none
    appended: str = ""  # what the processor writes behind a prompt with a picture by itself
    text_needs_token_type_ids: bool = False  # texts without a picture carry token_type_ids of 0 too
    caption_token_type_id: int = 0  # a long caption's token_type_ids, where 0 would show it to the prompt before it
    repeat_last_along_seq: tuple[str, ...] = ()  # inputs along the sequence that go on behind it as they end, not as 0
    capped_logits: bool = False  # the head's logits go through a tanh (config: final_logit_softcapping)
    processor: str | None = None  # the class that is used in place of its own where that lacks a package
    # what holds a picture to max_pixels: its own size, or a setting of the image processor, which enlarges small ones:
    # a number of pixels, the longest edge of all tiles, or the number of tiles
    budget: Literal["picture", "pixels", "edge", "tiles"] = "picture"
    max_pixels: int | None = None  # what load_lvlm was told


_PALIGEMMA = {
    "template": _PALIGEMMA_TEMPLATE,
    "appended": "\n",
    "text_needs_token_type_ids": True,
    "caption_token_type_id": 1,
}

FAMILIES = {
    "llava": Family("llava"),
    "llava_onevision": Family("llava_onevision"),
    "qwen2_vl": Family("qwen2_vl", budget="pixels"),
    "qwen2_5_vl": Family("qwen2_5_vl", budget="pixels"),
    "qwen3_vl": Family("qwen3_vl", budget="pixels"),
    "idefics3": Family("idefics3", budget="edge"),
    # SmolVLM's processor asks for num2words, for videos; with pictures it writes what Idefics3's writes
    "smolvlm": Family("smolvlm", budget="edge", processor="Idefics3Processor"),
    "paligemma": Family("paligemma", llm="gemma", **_PALIGEMMA),
    "paligemma2": Family("paligemma", llm="gemma2", capped_logits=True, **_PALIGEMMA),
    "gemma3": Family("gemma3"),
    "internvl": Family("internvl", budget="tiles"),
    "mllama": Family("mllama", repeat_last_along_seq=("cross_attention_mask",)),
}
UNKNOWN = "there is no record of it: the general path is used"


def family_of(config: PreTrainedConfig) -> Family:
    """The record of a model's family; one that is not known gets the general path and is marked as untested.

    family_of(model.config).tested    # True
    """
    llm = config.get_text_config().model_type
    for family in FAMILIES.values():
        if family.model_type == config.model_type and family.llm in (None, llm):
            return family
    return Family(config.model_type, tested=False, note=UNKNOWN)
