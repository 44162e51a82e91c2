"""Model names, and the properties of a loaded LVLM."""

import warnings
from functools import partial

import pytest
import tiny_families
import torch
import transformers
from transformers import AutoConfig, AutoProcessor, CLIPModel, LlavaForConditionalGeneration

import vladva_kit as vk
from vladva_kit.models import load as loading
from vladva_kit.models.device import DeviceChoice
from vladva_kit.models.load import UnknownModel, resolve


def test_an_unknown_name_lists_the_shipped_models():
    with pytest.raises(UnknownModel, match="emoji-llava"):
        vk.load_lvlm("emoji-lama")


def test_a_folder_without_config_is_rejected(tmp_path):
    with pytest.raises(UnknownModel, match=r"config\.json"):
        vk.load_lvlm(str(tmp_path))


EXPORTED = partial(vk.load_baseline, "sentence_transformers:exported")


@pytest.mark.parametrize("load", [vk.load_lvlm, vk.ClipEmbedder, EXPORTED], ids=["lvlm", "clip", "export"])
def test_a_transformers_that_computes_wrong_embeddings_is_refused(load, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "5.5.4")
    with pytest.raises(ImportError, match=r"5\.5\.4 computes wrong image embeddings: pip install 'transformers>=5\.6'"):
        load()


def test_a_hub_id_is_returned_unchanged():
    assert resolve("Qwen/Qwen2-VL-2B-Instruct") == "Qwen/Qwen2-VL-2B-Instruct"


def test_all_parameters_are_frozen_and_have_the_requested_dtype():
    lvlm = vk.load_lvlm("emoji-llava", dtype=torch.bfloat16)
    assert lvlm.model.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in lvlm.model.parameters())
    assert vk.load_lvlm("emoji-llava").model.dtype == torch.float32


def test_weights_saved_in_bfloat16_are_loaded_in_the_devices_dtype_by_default(tmp_path):
    folder = str(tiny_families.build("llava", tmp_path / "half", dtype=torch.bfloat16))
    assert str(AutoConfig.from_pretrained(folder).dtype).endswith("bfloat16")  # which dtype="auto" would use
    assert vk.load_lvlm(folder, device="cpu").model.dtype == torch.float32
    assert vk.load_lvlm(folder, device="cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_loading_warns_if_only_one_of_several_gpus_is_used(monkeypatch):
    choice = DeviceChoice("cpu", torch.float32, "float32 on cuda: as requested; one of 2 GPUs is used: to use all, …")
    monkeypatch.setattr(loading, "choose_device", lambda device, dtype: choice)
    with pytest.warns(UserWarning, match="one of 2 GPUs is used"):
        vk.load_lvlm("emoji-llava")


def test_the_shipped_models_load_with_plain_transformers_and_are_small():
    llava = LlavaForConditionalGeneration.from_pretrained(resolve("emoji-llava"))
    clip = CLIPModel.from_pretrained(resolve("emoji-clip", shipped=("emoji-clip",)))
    AutoProcessor.from_pretrained(resolve("emoji-llava"))
    weights = [sum(parameter.numel() for parameter in model.parameters()) for model in (llava, clip)]
    assert 3e6 <= weights[0] <= 8e6
    assert sum(weights) * 4 < 40e6


def test_an_unverified_family_is_loaded_with_a_warning_and_no_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vladva_kit.checks.check", lambda *_: pytest.fail("loading ran the checks"))
    folder = str(tiny_families.build("llava_next", tmp_path / "llava_next"))
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"'llava_next' is unverified; run vk\.check\(lvlm\), or `vladva check .*`$"):
        lvlm = vk.load_lvlm(folder)
    assert not lvlm.family.verified and lvlm.adapter is None and capsys.readouterr().out == ""
    assert torch.equal(torch.get_rng_state(), state)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is unverified")
        assert vk.load_lvlm("emoji-llava").family.verified
