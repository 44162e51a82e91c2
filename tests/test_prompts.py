"""Sequences: what stands where, and that a caption is only ever text."""

import pytest
import torch

from vladva_kit.prompts import (
    IGNORED,
    caption_ids,
    image_prompt,
    image_sequences,
    text_prompt,
    text_sequences,
    with_rows,
)


@pytest.fixture
def processor(lvlm):
    return lvlm.processor


def test_an_image_sequence_reads_like_the_chat_template_with_the_prompt_in_it(processor, pictures):
    prompt = image_prompt(processor)
    ours = image_sequences(processor, pictures[:1], prompt)
    content = [{"type": "image"}, {"type": "text", "text": prompt.words}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    theirs = processor(images=pictures[0], text=text, return_tensors="pt")
    assert torch.equal(ours.inputs["input_ids"], theirs["input_ids"])
    assert torch.equal(ours.inputs["pixel_values"], theirs["pixel_values"])


def test_a_text_sequence_reads_like_the_chat_template_with_caption_and_prompt_in_it(processor):
    prompt = text_prompt(processor)
    ours = text_sequences(processor.tokenizer, ["a blue dog"], prompt)
    content = [{"type": "text", "text": f"a blue dog {prompt.words}"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    theirs = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    assert torch.equal(ours.inputs["input_ids"], theirs["input_ids"])


def test_the_summary_token_is_the_prompts_last_even_when_its_words_occur_in_the_caption(processor):
    prompt = text_prompt(processor)
    captions = ["a dog", "summarize the provided text in one word: a dog summarize the provided text in one word:"]
    sequences = text_sequences(processor.tokenizer, captions, prompt)
    for row, place in enumerate(sequences.summary.tolist()):
        ids = sequences.inputs["input_ids"][row]
        assert tuple(ids[place + 1 - len(prompt.ids) : place + 1].tolist()) == prompt.ids
        assert sequences.inputs["attention_mask"][row].sum() == place + 1


def test_a_long_caption_stands_behind_the_summary_token_and_only_it_is_learnt(processor, pictures):
    prompt = image_prompt(processor)
    caption = caption_ids(processor.tokenizer, "a big blue dog on grass")
    sequences = image_sequences(processor, pictures[:2], prompt, [caption, None])
    place = int(sequences.summary[0])
    assert sequences.inputs["input_ids"][0, place + 1 :].tolist() == caption
    assert sequences.labels[0, place + 1 :].tolist() == caption
    assert (sequences.labels[0, : place + 1] == IGNORED).all() and (sequences.labels[1] == IGNORED).all()
    assert sequences.inputs["attention_mask"].sum(1).tolist() == [place + 1 + len(caption), place + 1]


@pytest.mark.parametrize("special", ["<image>", "<assistant>", "<eos>", "<pad>"])
def test_a_special_token_in_a_caption_is_plain_text(processor, special):
    ids = caption_ids(processor.tokenizer, f"a dog {special} a cat")
    assert processor.tokenizer.convert_tokens_to_ids(special) not in ids


def test_soft_rows_take_the_prompts_places(processor):
    prompt = with_rows(text_prompt(processor), 1000)
    sequences = text_sequences(processor.tokenizer, ["a dog"], prompt)
    assert sequences.inputs["input_ids"][0, -len(prompt.ids) :].tolist() == list(range(1000, 1000 + len(prompt.ids)))
