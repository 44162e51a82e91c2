"""Device and dtype are chosen with a reason; infinite values stop encoding and training."""

import importlib.util
from functools import cached_property
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_embedder, tiny_lvlm, tiny_pairs
from transformers import TrainingArguments

import vladva_kit as vk
from vladva_kit.models import load as loading
from vladva_kit.models.device import NonFiniteError, check_finite, choose_device, prefer_bfloat16, use_bfloat16
from vladva_kit.models.load import MissingExtra, UnknownModel
from vladva_kit.training.settings import trainer_arguments


def pretend_gpus(monkeypatch, capability, count=1):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # also on a T4, which emulates it


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((8, 9), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_gpus_of_capability_8_0_or_higher_use_bfloat16(monkeypatch, capability, dtype):
    pretend_gpus(monkeypatch, capability)
    choice = choose_device()
    assert (choice.device, choice.dtype) == ("cuda", dtype)
    assert f"{capability[0]}.{capability[1]}" in choice.reason


def test_a_cpu_uses_float32_and_explicit_arguments_win(monkeypatch):
    pretend_gpus(monkeypatch, (8, 0))
    assert choose_device("cpu").dtype == torch.float32
    explicit = choose_device(dtype=torch.float32)
    assert (explicit.device, explicit.dtype) == ("cuda", torch.float32) and "as requested" in explicit.reason
    assert "GPUs" not in explicit.reason


def test_with_two_gpus_one_is_used_and_the_reason_names_the_command_for_both(monkeypatch):
    pretend_gpus(monkeypatch, (7, 5), count=2)
    assert "one of 2 GPUs is used" in choose_device().reason and "device='cuda:1'" in choose_device().reason
    assert "accelerate launch --num_processes 2 -m vladva_kit train" in choose_device().reason
    assert "one of 2" not in choose_device("cpu").reason


def test_with_two_gpus_the_trainer_uses_one_and_keeps_the_batch_size(monkeypatch):
    original = TrainingArguments._setup_devices.func

    def setup_two_devices(arguments):
        device = original(arguments)
        arguments._n_gpu = 2  # as on a machine with two GPUs: the Trainer would use DataParallel
        return device

    patched = cached_property(setup_two_devices)
    patched.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", patched)
    assert TrainingArguments(output_dir="nowhere", use_cpu=True).n_gpu == 2
    arguments = trainer_arguments(tiny_embedder(), vk.Settings(batch_size=6), "nowhere")
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 6)


def test_training_rejects_a_model_on_the_second_gpu():
    model = SimpleNamespace(dtype=torch.float16)
    second = SimpleNamespace(device=torch.device("cuda:1"), lvlm=SimpleNamespace(model=model))
    with pytest.raises(ValueError, match="cuda:1.*CUDA_VISIBLE_DEVICES=1"):
        trainer_arguments(second, vk.Settings(), "nowhere")


def test_a_cuda_device_without_gpu_is_rejected(monkeypatch):
    pretend_gpus(monkeypatch, (8, 0), count=0)
    with pytest.raises(ValueError, match="no CUDA GPU"):
        vk.load_lvlm(device="cuda")


CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_bfloat16_is_preferred_on_cpus_that_multiply_it_in_hardware_only(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda value=supported: value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert prefer_bfloat16() == (True if supported else None)
        pretend_gpus(monkeypatch, (8, 0))
        assert prefer_bfloat16() is None


def test_bfloat16_training_is_the_default_on_gpus_and_optional_on_cpus(monkeypatch):
    pretend_gpus(monkeypatch, (8, 0))
    assert use_bfloat16(None, GPU, torch.bfloat16) and not use_bfloat16(None, CPU, torch.bfloat16)
    assert not use_bfloat16(None, GPU, torch.float32) and not use_bfloat16(False, GPU, torch.bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert use_bfloat16(True, CPU, torch.float32)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.warns(UserWarning, match="emulates bfloat16: training works, but slower than in float32"):
        assert use_bfloat16(True, CPU, torch.float32)


def test_bfloat16_training_is_rejected_on_gpus_that_emulate_it_and_for_float16_weights(monkeypatch):
    pretend_gpus(monkeypatch, (7, 5))
    with pytest.raises(ValueError, match="cuda lacks bfloat16 in hardware.*leave bf16 out"):
        use_bfloat16(True, GPU, torch.float32)
    with pytest.raises(ValueError, match=r"float16: load the model with dtype=torch\.bfloat16"):
        use_bfloat16(True, CPU, torch.float16)


@pytest.mark.filterwarnings("ignore:bf16=True on a CPU")
@pytest.mark.parametrize("rows", [None, 2], ids=["direct", "cached gradients"])
def test_bfloat16_losses_on_a_cpu_are_close_to_float32(rows):
    histories = [
        vk.fit(
            tiny_embedder(),
            tiny_pairs(9),
            vk.Settings(steps=3, batch_size=4, warmup=1, micro_batch_size=rows, bf16=bf16),
            progress=False,
        )
        for bf16 in (None, True)
    ]
    for float32, bfloat16 in zip(*histories, strict=True):
        assert bfloat16["next_token"] == pytest.approx(float32["next_token"], rel=0.02)
        assert bfloat16["next_token"] != float32["next_token"]
        assert bfloat16["contrastive"] == pytest.approx(float32["contrastive"], rel=0.1)


def test_bfloat16_weights_can_encode_and_train_on_a_cpu():
    embedder = vk.attach(tiny_lvlm(dtype=torch.bfloat16))
    history = vk.fit(embedder, tiny_pairs(9), vk.Settings(steps=2, batch_size=4, warmup=1), progress=False)
    assert all(0 < row["loss"] < 20 for row in history)
    assert embedder.encode_text(["a dog"]).isfinite().all()


def test_infinite_states_stop_encoding_and_training():
    check_finite(torch.ones(3), torch.float16)
    with pytest.raises(NonFiniteError, match="float16, which overflows above 65,504.*float32"):
        check_finite(torch.tensor([1.0, float("inf")]), torch.float16)
    embedder = tiny_embedder()
    embedder.lvlm.model.model.language_model.norm.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="summary states"):
        embedder.encode_text(["a dog"])
    before = {name: value.clone() for name, value in embedder.lvlm.model.state_dict().items() if "lora_" in name}
    with pytest.raises(NonFiniteError, match="losses"):
        vk.fit(embedder, tiny_pairs(9), vk.Settings(steps=1, batch_size=4), progress=False)
    now = embedder.lvlm.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())  # not updated


@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 2}, {"max_grad_norm": 0.0}], ids=str)
def test_infinite_gradients_of_a_finite_loss_stop_training_before_an_update(settings):
    embedder = tiny_embedder()
    trainable = {name: weight for name, weight in embedder.lvlm.model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in trainable.items()}
    next(iter(trainable.values())).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match="the gradients are not finite in float32"):
        vk.fit(embedder, tiny_pairs(9), vk.Settings(steps=1, batch_size=4, warmup=0, **settings), progress=False)
    assert all(torch.equal(weight, before[name]) for name, weight in trainable.items())


def test_four_bit_without_bitsandbytes_names_the_package(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    with pytest.raises(MissingExtra, match=r"pip install 'vladva-kit\[4bit\]'"):
        vk.load_lvlm(four_bit=True)


def test_weights_other_than_safetensors_are_rejected(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytest_model.bin").write_bytes(b"")
    with pytest.raises(UnknownModel, match=r"no \*\.safetensors"):
        vk.load_lvlm(str(tmp_path))


def test_a_missing_package_that_images_need_raises(monkeypatch):
    import transformers

    def fails(*_, **__):
        raise ImportError("no such package")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", fails)
    with pytest.raises(ImportError, match="no such package"):
        loading.load_lvlm("emoji-llava")
