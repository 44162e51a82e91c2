"""Sequences are built as the chat template has them, and a caption is always plain text."""

from dataclasses import replace

import pytest
import tiny_families
import torch

import vladva_kit as vk
from vladva_kit.embedder.prompts import (
    IGNORE_INDEX,
    encode_caption,
    encode_captions,
    ids_after_prefix,
    image_inputs,
    image_prompt,
    text_inputs,
    text_prompt,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def processor(lvlm):
    return lvlm.processor


def test_an_image_sequence_equals_the_rendered_chat_template(processor, pictures):
    prompt = image_prompt(processor)
    batch = image_inputs(processor, pictures[:1], prompt)
    content = [{"type": "image"}, {"type": "text", "text": prompt.words}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    expected = processor(images=pictures[0], text=text, return_tensors="pt")
    assert torch.equal(batch.inputs["input_ids"], expected["input_ids"])
    assert torch.equal(batch.inputs["pixel_values"], expected["pixel_values"])


def test_a_text_sequence_equals_the_rendered_chat_template(processor):
    prompt = text_prompt(processor)
    batch = text_inputs(processor.tokenizer, ["a blue dog"], prompt)
    content = [{"type": "text", "text": f"a blue dog {prompt.words}"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    expected = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    assert torch.equal(batch.inputs["input_ids"], expected["input_ids"])


def test_captions_may_be_given_as_token_ids(processor):
    captions, prompt = ["a blue dog", "a cat"], text_prompt(processor)
    by_text = text_inputs(processor.tokenizer, captions, prompt)
    by_ids = text_inputs(processor.tokenizer, encode_captions(processor.tokenizer, captions), prompt)
    assert torch.equal(by_ids.inputs["input_ids"], by_text.inputs["input_ids"])
    assert torch.equal(by_ids.summary_positions, by_text.summary_positions)


def test_the_summary_token_ends_the_prompt_even_if_the_caption_contains_the_prompts_words(processor):
    prompt = text_prompt(processor)
    captions = ["a dog", "summarize the provided text in one word: a dog summarize the provided text in one word:"]
    batch = text_inputs(processor.tokenizer, captions, prompt)
    for row, position in enumerate(batch.summary_positions.tolist()):
        ids = batch.inputs["input_ids"][row]
        assert tuple(ids[position + 1 - len(prompt.ids) : position + 1].tolist()) == prompt.ids
        assert batch.inputs["attention_mask"][row].sum() == position + 1


def test_only_a_long_caption_after_the_summary_token_has_labels(processor, pictures):
    prompt = image_prompt(processor)
    caption = encode_caption(processor.tokenizer, "a big blue dog on grass")
    batch = image_inputs(processor, pictures[:2], prompt, [caption, None])
    position = int(batch.summary_positions[0])
    assert batch.inputs["input_ids"][0, position + 1 :].tolist() == caption
    assert batch.labels[0, position + 1 :].tolist() == caption
    assert (batch.labels[0, : position + 1] == IGNORE_INDEX).all() and (batch.labels[1] == IGNORE_INDEX).all()
    assert batch.inputs["attention_mask"].sum(1).tolist() == [position + 1 + len(caption), position + 1]


@pytest.mark.parametrize("special", ["<image>", "<assistant>", "<eos>", "<pad>"])
def test_a_special_token_in_a_caption_is_plain_text(processor, special):
    ids = encode_caption(processor.tokenizer, f"a dog {special} a cat")
    assert processor.tokenizer.convert_tokens_to_ids(special) not in ids


def test_soft_prompt_ids_replace_the_prompts_token_ids(lvlm):
    hand_written = text_prompt(lvlm.processor, family=lvlm.family)
    prompt = vk.attach(lvlm, quiet=True).text_prompt
    assert prompt == replace(hand_written, ids=prompt.ids) and len(prompt.ids) == len(hand_written.ids)
    assert min(prompt.ids) >= lvlm.model.get_input_embeddings().num_embeddings
    batch = text_inputs(lvlm.processor.tokenizer, ["a dog"], prompt)
    assert tuple(batch.inputs["input_ids"][0, -len(prompt.ids) :].tolist()) == prompt.ids


@pytest.fixture(scope="module")
def processor_of(tmp_path_factory):
    """Return a function that builds the processor of a tiny model of a family."""
    return lambda family: vk.load_lvlm(str(tiny_families.build(family, tmp_path_factory.mktemp(family)))).processor


def test_a_tokenizer_that_starts_each_text_with_a_space_adds_none_inside_a_sequence(processor_of):
    processor = processor_of("llava")
    tokenizer, prompt = processor.tokenizer, text_prompt(processor)
    start, rest, text = (
        tokenizer(text, add_special_tokens=False).input_ids for text in ("dog\n", "Summarize the", "dog\nSummarize the")
    )
    assert [*start, *rest] != text  # tokenized alone, the rest starts with a space
    assert [*start, *ids_after_prefix(tokenizer, "dog\n", "dog\nSummarize the")] == text
    ids = text_inputs(tokenizer, ["a dog chases a cat"], prompt).inputs["input_ids"][0].tolist()
    assert ids == tokenizer(f"USER: a dog chases a cat {prompt.words} ASSISTANT:").input_ids


def test_if_a_token_spans_the_end_of_the_prefix_the_rest_is_tokenized_alone(processor_of):
    tokenizer = processor_of("qwen2_vl").tokenizer
    text, n_spanned = " Summarize the provided image", 0
    ids = tokenizer(text, add_special_tokens=False).input_ids
    for cut in range(1, len(text)):
        start, rest = (tokenizer(part, add_special_tokens=False).input_ids for part in (text[:cut], text[cut:]))
        spanned = ids[: len(start)] != start
        n_spanned += spanned
        assert list(ids_after_prefix(tokenizer, text[:cut], text)) == (rest if spanned else ids[len(start) :])
    assert n_spanned > 5


@pytest.mark.parametrize("caption", ["a dog <loc0007> a cat", "<seg001>", "<image><loc0007><bos>"])
def test_added_tokens_not_marked_special_are_plain_text(processor_of, caption):
    tokenizer = processor_of("paligemma").tokenizer
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if len(token.content) > 3}
    added -= {number for number in added if tokenizer.added_tokens_decoder[number].content.startswith("<0x")}
    ids = encode_caption(tokenizer, caption)
    assert not added & set(ids)
    assert tokenizer.decode(ids).replace(" ", "") == caption.replace(" ", "")


def test_many_captions_get_the_same_ids_as_each_alone(processor):
    tokenizer = processor.tokenizer
    captions = [f"a dog {token.content} a cat" for token in tokenizer.added_tokens_decoder.values()]
    captions += ["a big blue dog on grass", "a cat"]
    assert encode_captions(tokenizer, captions) == [encode_caption(tokenizer, caption) for caption in captions]
    assert encode_captions(tokenizer, []) == []


@pytest.mark.parametrize("words", ["user", "image", "o", "assistant", "USER: user"])
def test_words_that_the_template_holds_too_do_not_cut_it_elsewhere(processor, words):
    prompt = image_prompt(processor, words)
    assert prompt.prefix == image_prompt(processor).prefix
    text = f"{prompt.prefix}{words}<assistant>"
    assert prompt.ids == tuple(ids_after_prefix(processor.tokenizer, prompt.prefix, text))


def test_an_image_tag_before_or_after_a_prompts_words_is_left_out(processor):
    for words in ("<image>\nRepresent the image.", "<image> Represent the image.", "Represent the image. <image>"):
        assert image_prompt(processor, words) == image_prompt(processor, "Represent the image.")
        assert text_prompt(processor, words) == text_prompt(processor, "Represent the image.")
    with pytest.raises(ValueError, match="'compare <image> with it' has '<image>' between its words"):
        image_prompt(processor, "compare <image> with it")
    for words in ("", " ", "<image>\n"):
        with pytest.raises(ValueError, match="has no words"):
            image_prompt(processor, words)
