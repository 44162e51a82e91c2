"""Interpolation scales LoRA's update and nothing else."""

import pytest
import torch
from tiny import randomize_lora, tiny_lvlm, tiny_pairs

import vladva_kit as vk

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.tensor([[2, 5, 100]])


def update_of(layer):
    """Return the change that LoRA makes to a layer's weight."""
    return layer.get_delta_weight("default").detach().clone()


def test_the_update_is_multiplied_and_the_soft_prompt_kept():
    embedder = vk.attach(tiny_lvlm(), quiet=True)
    randomize_lora(embedder)
    layer = embedder.lvlm.model.model.language_model.layers[0].self_attn.q_proj
    before, prompts = update_of(layer), [p.clone() for n, p in embedder.lvlm.adapter.named_parameters() if "soft" in n]
    assert vk.interpolate(embedder, 0.25) is embedder
    assert torch.allclose(update_of(layer), 0.25 * before, atol=1e-7) and before.abs().max() > 0
    now = [p for n, p in embedder.lvlm.adapter.named_parameters() if "soft" in n]
    assert all(torch.equal(one, other) for one, other in zip(prompts, now, strict=True))


def test_weight_0_gives_the_logits_of_the_base_and_1_changes_nothing():
    embedder = vk.attach(tiny_lvlm(), quiet=True)
    randomize_lora(embedder)
    with torch.no_grad():
        tuned = embedder.lvlm.model(IDS).logits
        assert torch.equal(vk.interpolate(embedder, 1).lvlm.model(IDS).logits, tuned)
        assert torch.equal(vk.interpolate(embedder, 0).lvlm.model(IDS).logits, tiny_lvlm().model(IDS).logits)
    assert not torch.equal(tuned, tiny_lvlm().model(IDS).logits)


def test_an_interpolated_adapter_is_saved_and_loaded(tmp_path):
    embedder = vk.attach(tiny_lvlm(), quiet=True)
    randomize_lora(embedder)
    vk.interpolate(embedder, 0.5).save_pretrained(tmp_path / "adapter")
    texts = [pair.short for pair in tiny_pairs(3)]
    loaded = vk.Embedder.from_pretrained(tmp_path / "adapter", tiny_lvlm())
    assert torch.equal(loaded.encode_text(texts), embedder.encode_text(texts))


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_outside_0_to_1_is_refused(weight):
    with pytest.raises(ValueError, match="between 0, the base, and 1"):
        vk.interpolate(vk.attach(tiny_lvlm(), quiet=True), weight)


def test_an_embedder_without_plain_lora_is_refused():
    with pytest.raises(ValueError, match="no LoRA to interpolate"):
        vk.interpolate(vk.Embedder(tiny_lvlm()), 0.5)
    with pytest.raises(ValueError, match="no LoRA to interpolate"):
        vk.interpolate(vk.attach(tiny_lvlm(), lora=False, quiet=True), 0.5)
    with pytest.raises(ValueError, match="DoRA"):
        vk.interpolate(vk.attach(tiny_lvlm(), lora={"use_dora": True}, quiet=True), 0.5)
