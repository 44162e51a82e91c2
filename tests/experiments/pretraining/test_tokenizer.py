"""The tokenizer covers every caption, question and answer, and matches the fast `encode`."""

import random

import pytest

from experiments.pretraining.questions import EASY_KINDS, training_questions
from experiments.pretraining.tokenizer import (
    BOS,
    EOS,
    IMAGE,
    IMAGE_PROMPT,
    IMAGE_SIZE,
    IMAGE_TOKENS,
    LONG_PROMPT,
    PAD,
    REPHRASE_PROMPT,
    SHORT_PROMPT,
    SPECIAL,
    TEXT_PROMPT,
    UNK,
    USER,
    build_clip_tokenizer,
    build_processor,
    build_tokenizer,
    encode,
    token_ids,
    vocabulary,
)
from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.questions import KINDS
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import sample_scene

PROMPTS = (IMAGE_PROMPT, TEXT_PROMPT, SHORT_PROMPT, LONG_PROMPT, REPHRASE_PROMPT)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def sentences():
    rng = random.Random(31)
    texts = list(PROMPTS)
    for scene in (sample_scene(rng) for _ in range(60)):
        texts += [short_caption(scene, rng), long_caption(scene, rng)]
        texts += [f"{q.text} {q.answer}" for kind in (*KINDS, *EASY_KINDS) for q in training_questions(scene, kind)]
    return texts


def test_encode_equals_the_tokenizer(tokenizer, sentences):
    others = ["A Blue DOG.", "a dog, a cat; a 'duck'!", "a zebra drinks tea", "well-known: x/y", " a \n b  dog ", ""]
    for text in [*sentences, *others]:
        assert encode(text) == tokenizer(text, add_special_tokens=False).input_ids, text


def test_no_generated_sentence_has_an_unknown_word(sentences):
    assert not any(UNK in encode(text) for text in sentences)
    assert encode("a zebra") == [token_ids()["a"], UNK]


def test_special_tokens_come_first_and_tokens_are_unique(tokenizer):
    tokens = vocabulary()
    assert tokens[: len(SPECIAL)] == SPECIAL and len(set(tokens)) == len(tokens) == len(tokenizer)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (PAD, UNK)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BOS, EOS)
    assert tokenizer.convert_tokens_to_ids(["<image>", "<user>"]) == [IMAGE, USER]


def test_decoding_inverts_encoding(tokenizer):
    text = "the picture shows two kinds of things on grass. what color is the dog?"
    assert tokenizer.decode(encode(text)) == text


def test_clips_tokenizer_adds_bos_and_eos():
    assert build_clip_tokenizer()("a blue dog").input_ids == [BOS, *encode("a blue dog"), EOS]


def test_the_chat_template_marks_roles_and_ends(tokenizer):
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "what color?"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<bos><user><image>what is it?<assistant>a dog<eos><user>what color?<assistant>"


def test_the_processor_inserts_one_token_per_patch_and_one_for_the_class():
    image = render(sample_scene(random.Random(7)), 160)
    inputs = build_processor()(images=[image], text=["<bos><user><image>what is it?<assistant>"])
    assert inputs["input_ids"][0].count(IMAGE) == IMAGE_TOKENS == 8 * 8 + 1
    assert tuple(inputs["pixel_values"][0].shape) == (3, IMAGE_SIZE, IMAGE_SIZE)
