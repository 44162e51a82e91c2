"""The variant of the next-token loss: a caption sees the summary token, and neither the image nor the prompt."""

import pytest
import torch

import vladva_kit as vk
from experiments.paper import context
from experiments.paper.context import captions_see_summary_only, study_context, summary_only
from vladva_kit.embedder.prompts import encode_captions, image_inputs


@pytest.fixture(scope="module")
def embedder():
    return vk.Embedder(vk.load_lvlm("emoji-llava"))


def batch_of(embedder, words, captions):
    """The same image twice, after a prompt of these words, with captions of different lengths."""
    images = [vk.load_pairs(vk.sample("emoji_pairs"), "test")[0].load_image()] * 2
    prompt = vk.Embedder(embedder.lvlm, words).image_prompt
    ids = encode_captions(embedder.lvlm.processor.tokenizer, captions)
    return image_inputs(embedder.lvlm.processor, images, prompt, ids)


def test_summary_token_is_unchanged_and_captions_are_not(embedder):
    batch = batch_of(embedder, "summarize the image in one word:", ["a red dog above a cat", "two cats"])
    with torch.no_grad():
        plain, masked = embedder.hidden_states(batch), embedder.hidden_states(summary_only(batch))
    for row, summary in enumerate(batch.summary_positions.tolist()):
        assert torch.allclose(plain[row, : summary + 1], masked[row, : summary + 1], atol=1e-5)
        assert (plain[row, summary + 1] - masked[row, summary + 1]).abs().max() > 0.1


def test_caption_depends_on_the_keys_of_the_summary_token_only(embedder):
    batch = summary_only(batch_of(embedder, "summarize the image in one word:", ["a red dog above a cat", "two cats"]))
    mask, summary = batch.inputs["attention_mask"][:, 0], batch.summary_positions.tolist()
    for row, position in enumerate(summary):
        seen = mask[row, position + 2].nonzero().flatten().tolist()
        assert seen == [position, position + 1, position + 2]
    assert mask.any(-1).all()  # padding too: a row without any attention gives NaN


def test_only_sequences_with_captions_are_masked_and_only_in_the_block(embedder):
    captions = ["a red dog above a cat", "two cats"]
    batch = batch_of(embedder, "summarize the image in one word:", captions)
    texts, before = embedder.encode_text(captions), vk.Embedder.hidden_states
    with torch.no_grad(), captions_see_summary_only():
        inside = embedder.hidden_states(batch)
        assert torch.equal(embedder.encode_text(captions), texts)
    with torch.no_grad():
        assert torch.equal(inside, embedder.hidden_states(summary_only(batch)))
    assert vk.Embedder.hidden_states is before


def test_study_trains_with_the_variant_once_per_weight(monkeypatch, small_plan):
    seen = []

    def train_and_evaluate(run, cache):
        seen.append((run.next_token_weight, vk.Embedder.hidden_states.__name__))
        return {"measures": {}}

    monkeypatch.setattr(context, "train_and_evaluate", train_and_evaluate)
    records = study_context(small_plan)
    assert seen == [(0.3, "masked"), (1.0, "masked")]
    assert list(records) == ["weight 0.3, summary token only", "weight 1, summary token only"]
