import random

import pytest

from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.questions import KINDS, questions
from vladva_kit.emoji_world.scenes import sample_scene
from vladva_kit.emoji_world.words import (
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
    ids,
    vocabulary,
)

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
        texts += [f"{question.text} {question.answer}" for kind in KINDS for question in questions(scene, kind)]
    return texts


def test_encode_gives_the_ids_of_the_tokenizer(tokenizer, sentences):
    others = ["A Blue DOG.", "a dog, a cat; a 'duck'!", "a zebra drinks tea", "well-known: x/y", " a \n b  dog ", ""]
    for text in [*sentences, *others]:
        assert encode(text) == tokenizer(text, add_special_tokens=False).input_ids, text


def test_no_sentence_of_the_world_has_an_unknown_word(sentences):
    assert not any(UNK in encode(text) for text in sentences)
    assert encode("a zebra") == [ids()["a"], UNK]


def test_the_special_tokens_come_first_and_no_token_comes_twice(tokenizer):
    tokens = vocabulary()
    assert tokens[: len(SPECIAL)] == SPECIAL and len(set(tokens)) == len(tokens) == len(tokenizer)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (PAD, UNK)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BOS, EOS)
    assert tokenizer.convert_tokens_to_ids(["<image>", "<user>"]) == [IMAGE, USER]


def test_what_is_decoded_reads_as_what_was_encoded(tokenizer):
    text = "the picture shows two kinds of things on grass. what color is the dog?"
    assert tokenizer.decode(encode(text)) == text


def test_clip_reads_a_caption_between_a_beginning_and_an_end():
    assert build_clip_tokenizer()("a blue dog").input_ids == [BOS, *encode("a blue dog"), EOS]


def test_the_chat_template_writes_both_roles_and_their_ends(tokenizer):
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "what color?"},
    ]
    written = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert written == "<bos><user><image>what is it?<assistant>a dog<eos><user>what color?<assistant>"


def test_the_processor_puts_a_token_for_each_patch_and_one_for_the_class(pictures):
    inputs = build_processor()(images=[pictures[0]], text=["<bos><user><image>what is it?<assistant>"])
    assert inputs["input_ids"][0].count(IMAGE) == IMAGE_TOKENS == 8 * 8 + 1
    assert tuple(inputs["pixel_values"][0].shape) == (3, IMAGE_SIZE, IMAGE_SIZE)
