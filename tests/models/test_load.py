"""Names of models, and what loading gives."""

import pytest
import tiny_families
import torch
from transformers import AutoConfig, AutoProcessor, CLIPModel, LlavaForConditionalGeneration

import vladva_kit as vk
from vladva_kit.models import load as loading
from vladva_kit.models.device import DeviceChoice
from vladva_kit.models.load import UnknownModel, resolve


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(UnknownModel, match="emoji-llava"):
        vk.load_lvlm("emoji-lama")


def test_a_folder_without_a_config_says_so(tmp_path):
    with pytest.raises(UnknownModel, match=r"config\.json"):
        vk.load_lvlm(str(tmp_path))


def test_a_hub_id_is_passed_on():
    assert resolve("Qwen/Qwen2-VL-2B-Instruct") == "Qwen/Qwen2-VL-2B-Instruct"


def test_everything_is_frozen_and_in_the_stated_dtype():
    lvlm = vk.load_lvlm("emoji-llava", dtype=torch.bfloat16)
    assert lvlm.model.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in lvlm.model.parameters())
    assert vk.load_lvlm("emoji-llava").model.dtype == torch.float32


def test_weights_kept_in_bfloat16_are_loaded_in_the_devices_dtype_unless_told(tmp_path):
    folder = str(tiny_families.build("llava", tmp_path / "half", dtype=torch.bfloat16))
    assert str(AutoConfig.from_pretrained(folder).dtype).endswith("bfloat16")  # which "auto" would take
    assert vk.load_lvlm(folder, device="cpu").model.dtype == torch.float32
    assert vk.load_lvlm(folder, device="cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_of_several_gpus_one_is_used_and_loading_says_so(monkeypatch):
    several = DeviceChoice("cpu", torch.float32, "float32 on cuda: as asked; one of 2 GPUs is used: to use all, …")
    monkeypatch.setattr(loading, "place", lambda device, dtype: several)
    with pytest.warns(UserWarning, match="one of 2 GPUs is used"):
        vk.load_lvlm("emoji-llava")


def test_the_shipped_models_load_with_plain_transformers_and_are_small():
    llava = LlavaForConditionalGeneration.from_pretrained(resolve("emoji-llava"))
    clip = CLIPModel.from_pretrained(resolve("emoji-clip", known=("emoji-clip",)))
    AutoProcessor.from_pretrained(resolve("emoji-llava"))
    weights = [sum(parameter.numel() for parameter in model.parameters()) for model in (llava, clip)]
    assert 3e6 <= weights[0] <= 8e6
    assert sum(weights) * 4 < 40e6
