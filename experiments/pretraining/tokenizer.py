"""The emoji world's word-level tokenizer and its processors, built from standard transformers classes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from vladva_kit.emoji_world.captions import PLURALS
from vladva_kit.emoji_world.nouns import COLORS, COUNTS, GROUNDS, SIZES

if TYPE_CHECKING:
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<image>", "<user>", "<assistant>")
PAD, UNK, BOS, EOS, IMAGE, USER, ASSISTANT = range(len(SPECIAL))

IMAGE_PROMPT = "summarize the provided image in one word:"
TEXT_PROMPT = "summarize the provided text in one word:"
SHORT_PROMPT = "provide a short caption:"
LONG_PROMPT = "describe the picture in detail:"
REPHRASE_PROMPT = "say it in other words:"

IMAGE_SIZE, PATCH_SIZE = 128, 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2 + 1  # with the class token (vision_feature_select_strategy="full")
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}<user>{% else %}<assistant>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

_OTHER_WORDS = """
    the picture image text shows there is are a an and on in of to it they thing things kind kinds nothing else color
    natural ground under from left right top bottom above below front behind what how big many where yes no
    provide short caption describe detail summarize provided one word say other words photo
"""
_PIECES = re.compile(r"\w+|[^\w\s]+")  # splits like the tokenizer's `Whitespace` pre-tokenizer


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Return all tokens in id order: special tokens, punctuation, then words."""
    words = {*_OTHER_WORDS.split(), *PLURALS, *PLURALS.values(), *COLORS, *SIZES, *GROUNDS, *COUNTS}
    return (*SPECIAL, *".,:;!?'\"-", *sorted(words))


@lru_cache(maxsize=1)
def token_ids() -> dict[str, int]:
    """Map each token to its id."""
    return {word: index for index, word in enumerate(vocabulary())}


def encode(text: str) -> list[int]:
    """Tokenize plain text without special tokens; a faster equivalent of the tokenizer, for training.

    encode("a blue dog.")    # == build_tokenizer()("a blue dog.", add_special_tokens=False).input_ids
    """
    return [token_ids().get(word, UNK) for word in _PIECES.findall(text.lower())]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build emoji-llava's `PreTrainedTokenizerFast`, with the chat template."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(dict(token_ids()), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<image>", "<user>", "<assistant>"],
        padding_side="right",
        model_max_length=1024,
        clean_up_tokenization_spaces=True,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_clip_tokenizer() -> PreTrainedTokenizerFast:
    """Build emoji-clip's tokenizer: the same vocabulary, with captions wrapped in <bos> and <eos>."""
    from tokenizers import processors

    fast = build_tokenizer()
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    fast.model_max_length = 64
    fast.chat_template = None
    return fast


def build_image_processor() -> CLIPImageProcessorPil:
    """Build the image processor: resize the shorter side to 128, center-crop, normalize to about −2 to 2."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


def build_processor() -> LlavaProcessor:
    """Build the `LlavaProcessor` of emoji-llava."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
