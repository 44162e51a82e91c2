"""ModelInputs: what stands where, and that a caption is only ever text."""

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
    with_rows,
)


@pytest.fixture
def processor(lvlm):
    return lvlm.processor


def test_an_image_sequence_reads_like_the_chat_template_with_the_prompt_in_it(processor, pictures):
    prompt = image_prompt(processor)
    ours = image_inputs(processor, pictures[:1], prompt)
    content = [{"type": "image"}, {"type": "text", "text": prompt.words}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    theirs = processor(images=pictures[0], text=text, return_tensors="pt")
    assert torch.equal(ours.inputs["input_ids"], theirs["input_ids"])
    assert torch.equal(ours.inputs["pixel_values"], theirs["pixel_values"])


def test_a_text_sequence_reads_like_the_chat_template_with_caption_and_prompt_in_it(processor):
    prompt = text_prompt(processor)
    ours = text_inputs(processor.tokenizer, ["a blue dog"], prompt)
    content = [{"type": "text", "text": f"a blue dog {prompt.words}"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    theirs = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    assert torch.equal(ours.inputs["input_ids"], theirs["input_ids"])


def test_the_summary_token_is_the_prompts_last_even_when_its_words_occur_in_the_caption(processor):
    prompt = text_prompt(processor)
    captions = ["a dog", "summarize the provided text in one word: a dog summarize the provided text in one word:"]
    sequences = text_inputs(processor.tokenizer, captions, prompt)
    for row, place in enumerate(sequences.summary.tolist()):
        ids = sequences.inputs["input_ids"][row]
        assert tuple(ids[place + 1 - len(prompt.ids) : place + 1].tolist()) == prompt.ids
        assert sequences.inputs["attention_mask"][row].sum() == place + 1


def test_a_long_caption_stands_behind_the_summary_token_and_only_it_is_learned(processor, pictures):
    prompt = image_prompt(processor)
    caption = encode_caption(processor.tokenizer, "a big blue dog on grass")
    sequences = image_inputs(processor, pictures[:2], prompt, [caption, None])
    place = int(sequences.summary[0])
    assert sequences.inputs["input_ids"][0, place + 1 :].tolist() == caption
    assert sequences.labels[0, place + 1 :].tolist() == caption
    assert (sequences.labels[0, : place + 1] == IGNORE_INDEX).all() and (sequences.labels[1] == IGNORE_INDEX).all()
    assert sequences.inputs["attention_mask"].sum(1).tolist() == [place + 1 + len(caption), place + 1]


@pytest.mark.parametrize("special", ["<image>", "<assistant>", "<eos>", "<pad>"])
def test_a_special_token_in_a_caption_is_plain_text(processor, special):
    ids = encode_caption(processor.tokenizer, f"a dog {special} a cat")
    assert processor.tokenizer.convert_tokens_to_ids(special) not in ids


def test_soft_rows_take_the_prompts_places(processor):
    prompt = with_rows(text_prompt(processor), 1000)
    sequences = text_inputs(processor.tokenizer, ["a dog"], prompt)
    assert sequences.inputs["input_ids"][0, -len(prompt.ids) :].tolist() == list(range(1000, 1000 + len(prompt.ids)))


@pytest.fixture(scope="module")
def of_family(tmp_path_factory):
    """The processor of a tiny model of a family."""
    return lambda family: vk.load_lvlm(str(tiny_families.build(family, tmp_path_factory.mktemp(family)))).processor


def test_a_tokenizer_that_begins_each_text_with_a_space_puts_none_into_the_middle(of_family):
    processor = of_family("llava")
    tokenizer, prompt = processor.tokenizer, text_prompt(processor)
    head, alone, whole = (
        tokenizer(text, add_special_tokens=False).input_ids for text in ("dog\n", "Summarize the", "dog\nSummarize the")
    )
    assert [*head, *alone] != whole  # cut by itself, the rest begins with a space
    assert [*head, *ids_after_prefix(tokenizer, "dog\n", "dog\nSummarize the")] == whole
    ours = text_inputs(tokenizer, ["a dog chases a cat"], prompt).inputs["input_ids"][0].tolist()
    whole = f"USER: a dog chases a cat {prompt.words} ASSISTANT:"
    assert ours == tokenizer(whole).input_ids


def test_ids_behind_a_start_that_is_cut_elsewhere_are_those_of_the_rest(of_family):
    tokenizer = of_family("qwen2_vl").tokenizer
    text, elsewhere = " Summarize the provided image", 0
    whole = tokenizer(text, add_special_tokens=False).input_ids
    for cut in range(1, len(text)):
        head, rest = (tokenizer(part, add_special_tokens=False).input_ids for part in (text[:cut], text[cut:]))
        elsewhere += whole[: len(head)] != head
        wanted = whole[len(head) :] if whole[: len(head)] == head else rest
        assert list(ids_after_prefix(tokenizer, text[:cut], text)) == wanted
    assert elsewhere > 5  # the whole was cut at other places than the start's end


@pytest.mark.parametrize("caption", ["a dog <loc0007> a cat", "<seg001>", "<image><loc0007><bos>"])
def test_added_tokens_that_are_not_marked_special_are_plain_text_too(of_family, caption):
    tokenizer = of_family("paligemma").tokenizer
    acting = {number for number, token in tokenizer.added_tokens_decoder.items() if len(token.content) > 3}
    acting -= {number for number in acting if tokenizer.added_tokens_decoder[number].content.startswith("<0x")}
    ids = encode_caption(tokenizer, caption)
    assert not acting & set(ids)
    assert tokenizer.decode(ids).replace(" ", "") == caption.replace(" ", "")


def test_many_captions_have_the_ids_that_each_has_by_itself(lvlm):
    tokenizer = lvlm.processor.tokenizer
    captions = [f"a dog {token.content} a cat" for token in tokenizer.added_tokens_decoder.values()]
    captions += ["a big blue dog on grass", "a cat"]
    assert encode_captions(tokenizer, captions) == [encode_caption(tokenizer, caption) for caption in captions]
    assert encode_captions(tokenizer, []) == []
