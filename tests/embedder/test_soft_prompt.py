"""The soft prompt's hooks and the temperature, on their own."""

import re

import pytest
import torch

from vladva_kit.embedder.soft_prompt import MAX_SCALE, Temperature, install_soft_prompt, llm_linear_pattern


def test_ids_above_the_vocabulary_are_the_prompts_rows_and_all_others_the_embeddings(lvlm):
    embedding = lvlm.model.get_input_embeddings()
    plain = embedding(torch.tensor([[5, 17, 100]]))
    rows = torch.randn(3, embedding.embedding_dim)
    first = install_soft_prompt(lvlm.model, rows)
    assert first == embedding.num_embeddings
    out = embedding(torch.tensor([[5, first + 2, 17, first, 100]]))[0]
    assert torch.equal(out[[0, 2, 4]], plain[0])
    assert torch.equal(out[[1, 3]], rows[[2, 0]])


def test_nothing_is_resized(lvlm):
    before = lvlm.model.lm_head.weight.shape
    install_soft_prompt(lvlm.model, torch.zeros(2, 256))
    assert lvlm.model.lm_head.weight.shape == before == lvlm.model.get_input_embeddings().weight.shape


def test_a_second_soft_prompt_is_refused(lvlm):
    install_soft_prompt(lvlm.model, torch.zeros(2, 256))
    with pytest.raises(ValueError, match="already"):
        install_soft_prompt(lvlm.model, torch.zeros(2, 256))


def test_the_llms_linears_are_named_and_the_towers_are_not(lvlm):
    pattern = llm_linear_pattern(lvlm.model)
    hit = [name for name, _ in lvlm.model.named_modules() if re.fullmatch(pattern, name)]
    assert len(hit) == 28 and not any("vision" in name or "projector" in name for name in hit)


def test_the_temperature_divides_and_is_bounded():
    cosines = torch.tensor([0.5])
    assert float(Temperature(0.05)(cosines)) == pytest.approx(10.0)
    assert float(Temperature(1e-4)(cosines)) == pytest.approx(0.5 * MAX_SCALE)
