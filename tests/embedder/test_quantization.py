"""Int8 weights change embeddings little, are recorded as int8, and are refused where they cannot be used."""

import importlib.util

import pytest
import torch

import vladva_kit as vk
from vladva_kit.embedder import quantization
from vladva_kit.embedder.identity import hash_weights
from vladva_kit.embedder.provenance import provenance_of
from vladva_kit.models.load import MissingExtra

CAPTIONS = ["a red dog above a cat", "a cat above a red dog", "two green cars"]
HAS_TORCHAO = importlib.util.find_spec("torchao") is not None
needs_torchao = pytest.mark.skipif(not HAS_TORCHAO, reason="torchao is not installed: pip install torchao")


@pytest.fixture(scope="module")
def adapted():
    return vk.Embedder.from_pretrained("emoji-llava-vladva")


def test_without_torchao_the_message_names_the_command(adapted, monkeypatch):
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install torchao"):
        vk.quantize_int8(adapted)


@needs_torchao
def test_int8_weights_are_close_recorded_and_refused_a_second_time(adapted, tmp_path):
    quantized = vk.Embedder.from_pretrained("emoji-llava-vladva")
    plain_hash = hash_weights(quantized.lvlm.model)
    assert vk.quantize_int8(quantized) is quantized
    expected, found = adapted.encode_text(CAPTIONS), quantized.encode_text(CAPTIONS)
    assert ((expected * found).sum(1) > 0.99).all() and not torch.equal(expected, found)
    with quantized.base():
        assert (quantized.encode_text(CAPTIONS) * vk.Embedder(adapted.lvlm).encode_text(CAPTIONS)).sum(1).min() > 0.99
    assert hash_weights(quantized.lvlm.model) != plain_hash
    assert provenance_of(quantized.lvlm).dtype == "float32, 8-bit"
    with pytest.raises(ValueError, match="quantized already"):
        vk.quantize_int8(quantized)
    with pytest.raises(ValueError, match="has quantized weights, into which LoRA cannot be merged"):
        vk.embedder.export.export(quantized, tmp_path / "exported")


@needs_torchao
def test_trained_layers_and_the_head_keep_their_precision():
    quantized = vk.quantize_int8(vk.attach(vk.load_lvlm("emoji-llava"), quiet=True))
    named = dict(quantized.lvlm.model.named_parameters())
    plain = {name for name, weight in named.items() if type(weight) is torch.nn.Parameter}
    assert {name for name in named if "lora_" in name or "lm_head" in name or "embed_tokens" in name} <= plain
    linear = [name for name in named if name.endswith("_proj.base_layer.weight")]
    assert linear and not plain & set(linear)
