"""Greedy answers with and without images, in several turns, one at a time and in batches."""

import pytest
import tiny_families
import torch

import vladva_kit as vk
from vladva_kit.checks import example_images
from vladva_kit.embedder.prompts import plain_text
from vladva_kit.models.families import FAMILIES

pytestmark = pytest.mark.usefixtures("one_thread")
QUESTION = "what is the ground?"


@pytest.fixture
def embedder(lvlm):
    return vk.Embedder(lvlm)


def test_an_answer_equals_that_of_the_lvlm_itself(embedder, pictures):
    lvlm = embedder.lvlm
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = lvlm.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    batch = lvlm.processor(images=pictures[0], text=text, return_tensors="pt")
    with torch.no_grad():
        ids = lvlm.model.generate(**batch, max_new_tokens=8, do_sample=False)[0, batch["input_ids"].shape[1] :]
    expected = lvlm.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert expected and embedder.generate(pictures[0], QUESTION, max_new_tokens=8) == expected


def test_earlier_turns_precede_the_prompt_and_the_image_is_in_the_first(embedder, pictures, monkeypatch):
    lvlm, inputs = embedder.lvlm, {}
    generate = lvlm.model.generate
    monkeypatch.setattr(lvlm.model, "generate", lambda **options: inputs.update(options) or generate(**options))
    embedder.generate(pictures[0], QUESTION, [("how big is it?", "very big")], max_new_tokens=2)
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how big is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "very big"}]},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    text = lvlm.processor.apply_chat_template(chat, add_generation_prompt=True)
    expected = lvlm.processor(images=pictures[0], text=text, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


def test_without_an_image_only_text_is_passed(embedder, monkeypatch):
    lvlm, inputs = embedder.lvlm, {}
    generate = lvlm.model.generate
    monkeypatch.setattr(lvlm.model, "generate", lambda **options: inputs.update(options) or generate(**options))
    assert isinstance(embedder.generate(None, "a dog. say it in other words:", max_new_tokens=2), str)
    assert "pixel_values" not in inputs
    text = "<bos><user>a dog. say it in other words:<assistant>"
    assert inputs["input_ids"][0].tolist() == lvlm.processor.tokenizer(text, add_special_tokens=False).input_ids


def test_a_batch_gives_the_same_answers_as_single_calls(embedder, pictures):
    prompts = [QUESTION, "provide a short caption:", "how big is it?"]
    answers = embedder.generate_batch(pictures[:3], prompts, max_new_tokens=8)
    assert answers == [embedder.generate(p, q, max_new_tokens=8) for p, q in zip(pictures, prompts, strict=False)]
    assert embedder.generate_batch([], []) == []


def test_a_mixture_of_prompts_with_and_without_image_is_rejected(embedder, pictures):
    with pytest.raises(ValueError, match="split them into two calls"):
        embedder.generate_batch([pictures[0], None], ["a", "b"])


def test_an_image_that_cannot_be_read_is_named(embedder, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(vk.BadInput, match=r"image 0 \(.*text.jpg\) cannot be read"):
        embedder.generate(str(tmp_path / "text.jpg"), QUESTION)


def test_the_tag_of_the_image_in_a_question_is_that_of_the_image_before_it(embedder, pictures):
    expected = embedder.generate(pictures[0], QUESTION, [(QUESTION, "grass")], max_new_tokens=8)
    for question in (f"<image>\n{QUESTION}", f"{QUESTION}\n<image>", f"<image><image> {QUESTION}"):
        assert embedder.generate(pictures[0], question, [(question, "grass")], max_new_tokens=8) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_that_is_written_in_a_turn_acts(tmp_path, family, monkeypatch):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path)), dtype=torch.float32)
    embedder, image, inputs = vk.Embedder(lvlm), example_images()[0], {}
    tokens = [token.content for token in lvlm.processor.tokenizer.added_tokens_decoder.values() if token.special]
    tokens = [token for token in tokens if not token.startswith("<0x")]
    generate = lvlm.model.generate
    monkeypatch.setattr(lvlm.model, "generate", lambda **options: inputs.update(options) or generate(**options))

    def counts(picture, question, answer):
        embedder.generate(picture, question, [(question, answer)], max_new_tokens=1)
        ids = inputs["input_ids"][0].tolist()
        return [ids.count(lvlm.processor.tokenizer.convert_tokens_to_ids(token)) for token in tokens]

    for picture in (image, None):
        expected = counts(picture, "what is it?", "a dog")
        assert counts(picture, f"what is {' or '.join(tokens)} there?", f"a {' '.join(tokens)} dog") == expected
    assert not set(tokens) & {*plain_text(lvlm.processor, " ".join(tokens)).split()}
