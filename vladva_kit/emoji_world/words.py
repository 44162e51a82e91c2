"""The emoji world's tokenizer and processor: one token a word, the ordinary classes of transformers."""

import re
from functools import lru_cache

from vladva_kit.emoji_world.captions import PLURALS
from vladva_kit.emoji_world.nouns import COLORS, COUNTS, GROUNDS, SIZES

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<image>", "<user>", "<assistant>")
PAD, UNK, BOS, EOS, IMAGE, USER, ASSISTANT = range(len(SPECIAL))

IMAGE_PROMPT = "summarize the provided image in one word:"
TEXT_PROMPT = "summarize the provided text in one word:"
SHORT_PROMPT = "provide a short caption:"
LONG_PROMPT = "describe the picture in detail:"
REPHRASE_PROMPT = "say it in other words:"

IMAGE_SIZE, PATCH_SIZE = 128, 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2 + 1  # the class token is kept: vision_feature_select_strategy="full"
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

_PROSE = """
    the picture image text shows there is are a an and on in of to it they thing things kind kinds nothing else color
    natural ground under from left right top bottom above below front behind what how big many where yes no
    provide short caption describe detail summarize provided one word say other words photo
"""


_PIECES = re.compile(r"\w+|[^\w\s]+")  # as the tokenizer's `Whitespace` cuts


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Every token, in the order of its id: the special ones, punctuation, then the words."""
    words = {*_PROSE.split(), *PLURALS, *PLURALS.values(), *COLORS, *SIZES, *GROUNDS, *COUNTS}
    return (*SPECIAL, *".,:;!?'\"-", *sorted(words))


@lru_cache(maxsize=1)
def ids() -> dict[str, int]:
    """Token to id."""
    return {word: index for index, word in enumerate(vocabulary())}


def encode(text: str) -> list[int]:
    """The tokenizer's ids of plain text, without special tokens; quick, for training.

    encode("a blue dog.")    # as build_tokenizer()("a blue dog.", add_special_tokens=False).input_ids
    """
    known = ids()
    return [known.get(word, UNK) for word in _PIECES.findall(text.lower())]


def build_tokenizer():
    """A `PreTrainedTokenizerFast` over the words of the world, with the chat template."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(dict(ids()), unk_token="<unk>"))
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


def build_clip_tokenizer():
    """The same words for CLIP, whose text tower reads <bos> caption <eos>."""
    from tokenizers import processors

    fast = build_tokenizer()
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    fast.model_max_length = 64
    fast.chat_template = None
    return fast


def build_image_processor():
    """Pictures to the tower's pixels: the shorter side to 128, the middle cut out, values about −2 to 2."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


def build_processor():
    """The `LlavaProcessor` of emoji-llava."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
