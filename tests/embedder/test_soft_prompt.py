"""The soft prompt under the token embedding, the temperature, and the pattern of LoRA's target layers."""

import copy
import re
import threading

import pytest
import torch

import vladva_kit as vk
from vladva_kit.embedder.soft_prompt import (
    MAX_SCALE,
    Temperature,
    install_soft_prompt,
    llm_linear_pattern,
    remove_soft_prompt,
)

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.tensor([[5, 17, 100]])


def test_ids_above_the_vocabulary_select_prompt_rows_and_others_token_embeddings(lvlm):
    embedding = lvlm.model.get_input_embeddings()
    tokens = embedding(IDS)
    rows = torch.randn(3, embedding.embedding_dim)
    first_id = install_soft_prompt(lvlm.model, rows)
    assert first_id == embedding.num_embeddings
    output = embedding(torch.tensor([[5, first_id + 2, 17, first_id, 100]]))[0]
    assert torch.equal(output[[0, 2, 4]], tokens[0])
    assert torch.equal(output[[1, 3]], rows[[2, 0]])


def test_no_weight_is_resized(lvlm):
    before = lvlm.model.lm_head.weight.shape
    install_soft_prompt(lvlm.model, torch.zeros(2, 64))
    assert lvlm.model.lm_head.weight.shape == before == lvlm.model.get_input_embeddings().weight.shape


def test_a_second_soft_prompt_is_rejected(lvlm):
    install_soft_prompt(lvlm.model, torch.zeros(2, 64))
    with pytest.raises(ValueError, match="already"):
        install_soft_prompt(lvlm.model, torch.zeros(2, 64))


def test_removing_restores_the_embedding(lvlm):
    embedding = lvlm.model.get_input_embeddings()
    before = set(vars(embedding)), embedding(IDS)
    install_soft_prompt(lvlm.model, torch.zeros(2, 64))
    remove_soft_prompt(lvlm.model)
    assert set(vars(embedding)) == before[0] and not hasattr(embedding, "soft_prompt")
    assert torch.equal(embedding(IDS), before[1])
    with pytest.raises(IndexError):
        embedding(torch.tensor([[embedding.num_embeddings]]))


def test_removing_keeps_a_forward_that_was_replaced_before(lvlm):
    """accelerate replaces the forward of each layer under a device_map."""
    embedding = lvlm.model.get_input_embeddings()
    plain = embedding.forward
    embedding.forward = replaced = lambda ids: plain(ids) + 1.0
    install_soft_prompt(lvlm.model, torch.zeros(2, 64))
    assert torch.equal(embedding(IDS), plain(IDS) + 1.0)
    remove_soft_prompt(lvlm.model)
    assert embedding.forward is replaced


def test_a_failed_forward_and_a_forward_inside_another_leave_the_next_one_right(lvlm):
    embedding = lvlm.model.get_input_embeddings()
    rows = torch.randn(2, 64)
    first_id = install_soft_prompt(lvlm.model, rows)
    ids = torch.tensor([[first_id + 1, 5]])
    expected = embedding(ids)
    with pytest.raises(IndexError):
        embedding(torch.tensor([[-1, first_id]]))
    inner = []

    def run_inner_forward(soft_prompt, inputs, output):
        handle.remove()
        inner.append(embedding(torch.tensor([[first_id, first_id, 17]])))

    handle = embedding.soft_prompt.register_forward_hook(run_inner_forward)
    assert torch.equal(embedding(ids), expected)
    assert torch.equal(inner[0][0, :2], rows[[0, 0]])


def test_concurrent_forwards_do_not_mix_their_ids(lvlm):
    embedding = lvlm.model.get_input_embeddings()
    rows = torch.randn(4, 64)
    first_id = install_soft_prompt(lvlm.model, rows)
    wrong, start = [], threading.Barrier(4)

    def run(row):
        start.wait()
        ids = torch.full((1, 3 + row), first_id + row)
        wrong.extend(row for _ in range(200) if not torch.equal(embedding(ids), rows[row].expand(1, 3 + row, 64)))

    threads = [threading.Thread(target=run, args=(row,)) for row in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_copied_model_uses_its_own_soft_prompt(lvlm):
    embedder = vk.attach(lvlm, quiet=True)
    copied = copy.deepcopy(lvlm.model)
    ids = torch.tensor([list(embedder.text_prompt.ids)])
    before = lvlm.model.get_input_embeddings()(ids)
    with torch.no_grad():
        copied.get_input_embeddings().soft_prompt.modules_to_save["default"].weight.zero_()
    assert not copied.get_input_embeddings()(ids).any()
    assert torch.equal(lvlm.model.get_input_embeddings()(ids), before)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradients_under_checkpointing_equal_those_without(lvlm, use_reentrant):
    embedder = vk.attach(lvlm, quiet=True)
    weight = lvlm.model.get_input_embeddings().soft_prompt.modules_to_save["default"].weight
    ids = torch.tensor([[5, 17, *embedder.text_prompt.ids]])

    def gradient():
        weight.grad = None
        lvlm.model.train()
        lvlm.model.model(input_ids=ids, use_cache=False).last_hidden_state.square().sum().backward()
        return weight.grad.clone()

    plain = gradient()
    lvlm.model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert plain.abs().sum() > 0 and torch.allclose(gradient(), plain, rtol=1e-5, atol=1e-6)


def test_the_pattern_matches_the_llms_linear_layers_only(lvlm):
    pattern = llm_linear_pattern(lvlm.model)
    matched = [name for name, _ in lvlm.model.named_modules() if re.fullmatch(pattern, name)]
    assert len(matched) == 14 and not any("vision" in name or "projector" in name for name in matched)


def test_the_temperature_divides_and_is_bounded():
    cosines = torch.tensor([0.5])
    assert Temperature(0.05)(cosines).item() == pytest.approx(10.0)
    assert Temperature(1e-4)(cosines).item() == pytest.approx(0.5 * MAX_SCALE)
