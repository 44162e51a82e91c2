"""The shared prefix of captions against one plain forward pass per caption, in all twelve families."""

from dataclasses import replace

import pytest
import tiny_families
import torch
from tiny import gradients, largest_difference, tiny_lvlm
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.checks import example_images
from vladva_kit.embedder.adapter import detach_adapter
from vladva_kit.embedder.prefix import MIN_SHARED_PREFIX, shared_prefix
from vladva_kit.embedder.prompts import ModelInputs, text_inputs
from vladva_kit.models.families import FAMILIES, Family
from vladva_kit.training.encode import encode_rows
from vladva_kit.training.fit import enable_layer_checkpointing

pytestmark = pytest.mark.usefixtures("one_thread")
SYSTEM = "In the background there are trees, water and the sky. "
CAPTIONS = [
    "a dog",
    "two red balls lie on green grass, left of the house",
    "a",
    "a cat chases a dog",
    "water",
    "a",
    "the sky",
]
BIDIRECTIONAL = ("paligemma", "paligemma2")


def with_system_prompt(lvlm):
    """Let the chat template write a system prompt, in front of which only bos stands."""
    bos, template = "{{ bos_token }}", lvlm.processor.chat_template
    lvlm.processor.chat_template = bos + SYSTEM + template.removeprefix(bos)
    return lvlm


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    folder = tiny_families.build(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, with_system_prompt(vk.load_lvlm(str(folder), dtype=torch.float32))


@pytest.fixture
def calls(monkeypatch):
    """Record the shape of all ids that an LVLM runs."""

    def record(lvlm):
        shapes, forward = [], lvlm.model.model.forward
        monkeypatch.setattr(
            lvlm.model.model,
            "forward",
            lambda **inputs: shapes.append(tuple(inputs["input_ids"].shape)) or forward(**inputs),
        )
        return shapes

    return record


@torch.no_grad()
def plain_embedding(embedder, caption):
    """Run one caption without padding or cache."""
    batch = replace(text_inputs(embedder.lvlm.processor.tokenizer, [caption], embedder.text_prompt), prefix_length=0)
    return F.normalize(embedder.lvlm.model.model(**batch.inputs, use_cache=False).last_hidden_state[0, -1], dim=-1)


def test_captions_have_the_embeddings_of_plain_forward_passes_and_run_the_prefix_once(tiny, calls):
    family, lvlm = tiny
    embedder = vk.Embedder(lvlm)
    embedder.encode_image(example_images())  # Qwen's models keep an offset of its positions
    expected = torch.stack([plain_embedding(embedder, caption) for caption in CAPTIONS])
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    shapes = calls(lvlm)
    assert torch.allclose(embedder.encode_text(CAPTIONS, 2), expected, atol=1e-5)
    batch, shared = text_inputs(lvlm.processor.tokenizer, CAPTIONS, embedder.text_prompt), family not in BIDIRECTIONAL
    total, start = batch.inputs["input_ids"].shape[1], batch.prefix_length
    assert start > 10 and shapes.count((1, start)) == shared
    assert max(length for rows, length in shapes if rows > 1) == total - start * shared


def test_the_gradients_of_lora_and_soft_prompts_are_those_of_the_plain_path(tiny):
    family, lvlm = tiny
    embedder = vk.attach(lvlm, quiet=True)
    try:
        tiny_families.randomize_lora(embedder)
        batch = text_inputs(lvlm.processor.tokenizer, CAPTIONS, embedder.text_prompt)
        weights = torch.randn(len(CAPTIONS), tiny_families.HIDDEN, generator=torch.Generator().manual_seed(0))
        found = []
        for inputs in (batch, replace(batch, prefix_length=0)):
            lvlm.model.train()
            (encode_rows(embedder, inputs)[0] * weights).sum().backward()
            found.append({name: value for name, value in gradients(embedder).items() if value.any()})
        assert {"soft_prompt", "lora_A", "lora_B"} <= {part for name in found[0] for part in name.split(".")}
        assert largest_difference(*found) < 1e-5
    finally:
        lvlm.model.eval()
        detach_adapter(lvlm)


def test_the_adapter_counts_for_the_prefix_and_switches_off():
    embedder = vk.attach(with_system_prompt(tiny_lvlm()), quiet=True)
    tiny_families.randomize_lora(embedder)
    with embedder.base():
        base = torch.stack([plain_embedding(embedder, caption) for caption in CAPTIONS])
        assert torch.allclose(embedder.encode_text(CAPTIONS), base, atol=1e-5)
    adapted = torch.stack([plain_embedding(embedder, caption) for caption in CAPTIONS])
    assert torch.allclose(embedder.encode_text(CAPTIONS), adapted, atol=1e-5)
    assert (adapted - base).abs().max() > 1e-3


def test_captions_of_one_token_share_all_but_the_last_token_of_the_prompt():
    lvlm, image = with_system_prompt(tiny_lvlm()), example_images()[0]
    together = vk.likelihood(lvlm, [image], ["dog", "cat", "two red cats"], alpha=0.5)
    assert torch.allclose(vk.likelihood(lvlm, [image], ["dog", "cat"], alpha=0.5), together[:, :2], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_the_embeddings_by_rounding_only(dtype):
    embedder = vk.Embedder(with_system_prompt(tiny_lvlm(dtype=dtype)))
    plain = torch.stack([plain_embedding(embedder, caption).float() for caption in CAPTIONS])
    shared = embedder.encode_text(CAPTIONS)
    assert shared.dtype == torch.float32 and F.cosine_similarity(shared, plain).min() > 0.9995


def test_soft_prompts_before_the_caption_are_part_of_the_prefix():
    embedder = vk.attach(tiny_lvlm(), lora=False, quiet=True)
    ids = text_inputs(embedder.lvlm.processor.tokenizer, CAPTIONS, embedder.text_prompt).inputs["input_ids"]
    ids[:, :6] = torch.tensor(embedder.text_prompt.ids[:6])
    inputs = ModelInputs({"input_ids": ids}, torch.full((len(ids),), ids.shape[1] - 1), prefix_length=6)
    shared, plain = (embedder.hidden_states(replace(inputs, prefix_length=n)) for n in (6, 0))
    assert ids[0, 0] >= embedder.lvlm.model.get_input_embeddings().num_embeddings
    assert torch.allclose(shared, plain, atol=1e-5)


def test_short_prefixes_single_captions_dropout_and_checkpointing_take_the_plain_path(calls):
    embedder = vk.attach(with_system_prompt(tiny_lvlm()), lora={"lora_dropout": 0.1}, quiet=True)
    batch, model = text_inputs(embedder.lvlm.processor.tokenizer, CAPTIONS, embedder.text_prompt), embedder.lvlm.model
    shapes = calls(embedder.lvlm)
    assert shared_prefix(embedder.lvlm, batch) and shapes == [(1, batch.prefix_length)]
    assert shared_prefix(embedder.lvlm, replace(batch, prefix_length=MIN_SHARED_PREFIX - 1)) is None
    assert shared_prefix(replace(embedder.lvlm, family=Family("new", verified=False)), batch) is None
    model.train()
    assert shared_prefix(embedder.lvlm, batch) is None  # each text has its own dropout
    model.eval()
    del shapes[:]
    embedder.encode_text(CAPTIONS[:1])
    assert len(shapes) == 1
    recomputing = vk.attach(with_system_prompt(tiny_lvlm()), quiet=True)
    enable_layer_checkpointing(recomputing)
    recomputing.lvlm.model.train()
    assert shared_prefix(recomputing.lvlm, batch) is None
