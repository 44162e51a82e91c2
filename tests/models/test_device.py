"""Where a model runs, in which numbers, and why; numbers that run over are not passed on."""

import importlib.util
from functools import cached_property
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_embedder, tiny_lvlm, tiny_pairs
from transformers import TrainingArguments

import vladva_kit as vk
from vladva_kit.models import load as loading
from vladva_kit.models.device import NonFiniteError, check_finite, place, use_bfloat16
from vladva_kit.models.load import MissingExtra, UnknownModel
from vladva_kit.training.settings import trainer_arguments


def gpus(monkeypatch, capability, count=1):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # as on a T4, by emulation


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((8, 9), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_a_gpu_computes_in_bfloat16_from_capability_8_0(monkeypatch, capability, dtype):
    gpus(monkeypatch, capability)
    device_choice = place()
    assert (device_choice.device, device_choice.dtype) == ("cuda", dtype)
    assert f"{capability[0]}.{capability[1]}" in device_choice.why


def test_a_cpu_computes_in_float32_and_what_is_asked_for_is_kept(monkeypatch):
    gpus(monkeypatch, (8, 0))
    assert place("cpu").dtype == torch.float32
    asked = place(dtype=torch.float32)
    assert (asked.device, asked.dtype) == ("cuda", torch.float32) and "as asked" in asked.why
    assert "GPUs" not in asked.why


def test_of_two_gpus_one_is_used_and_it_says_how_to_use_both(monkeypatch):
    gpus(monkeypatch, (7, 5), count=2)
    assert "one of 2 GPUs is used" in place().why and "device='cuda:1'" in place().why
    assert "accelerate launch --num_processes 2 -m vladva_kit train" in place().why
    assert "one of 2" not in place("cpu").why


def test_of_two_gpus_the_trainer_takes_one_and_leaves_the_batch_as_it_is(monkeypatch):
    real = TrainingArguments._setup_devices.func

    def two(arguments):
        device = real(arguments)
        arguments._n_gpu = 2  # as the Trainer finds on a machine with two: it would split the model over them
        return device

    seen = cached_property(two)
    seen.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", seen)
    assert TrainingArguments(output_dir="nowhere", use_cpu=True).n_gpu == 2
    arguments = trainer_arguments(tiny_embedder(), vk.Settings(batch_size=6), "nowhere")
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 6)


def test_a_model_on_the_second_gpu_is_not_moved_to_the_first_to_be_trained():
    model = SimpleNamespace(dtype=torch.float16)
    second = SimpleNamespace(device=torch.device("cuda:1"), lvlm=SimpleNamespace(model=model))
    with pytest.raises(ValueError, match="cuda:1.*CUDA_VISIBLE_DEVICES=1"):
        trainer_arguments(second, vk.Settings(), "nowhere")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    gpus(monkeypatch, (8, 0), count=0)
    with pytest.raises(ValueError, match="no CUDA GPU"):
        vk.load_lvlm(device="cuda")


CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_training_in_bfloat16_is_chosen_on_gpus_and_done_on_cpus_that_are_asked(monkeypatch):
    gpus(monkeypatch, (8, 0))
    assert use_bfloat16(None, GPU, torch.bfloat16) and not use_bfloat16(None, CPU, torch.bfloat16)
    assert not use_bfloat16(None, GPU, torch.float32) and not use_bfloat16(False, GPU, torch.bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert use_bfloat16(True, CPU, torch.float32)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.warns(UserWarning, match="emulates bfloat16: it will train, but slower than in float32"):
        assert use_bfloat16(True, CPU, torch.float32)


def test_training_in_bfloat16_is_refused_where_a_gpu_emulates_it_or_weights_are_in_float16(monkeypatch):
    gpus(monkeypatch, (7, 5))
    with pytest.raises(ValueError, match="cuda has no bfloat16 in hardware.*leave bf16 out"):
        use_bfloat16(True, GPU, torch.float32)
    with pytest.raises(ValueError, match=r"float16: load the model with dtype=torch\.bfloat16"):
        use_bfloat16(True, CPU, torch.float16)


@pytest.mark.filterwarnings("ignore:bf16=True on a CPU")
@pytest.mark.parametrize("rows", [None, 2], ids=["one graph", "cached"])
def test_a_cpu_trains_in_bfloat16_near_what_it_does_in_float32(rows):
    histories = [
        vk.fit(
            tiny_embedder(),
            tiny_pairs(9),
            vk.Settings(steps=3, batch_size=4, warmup=1, micro_batch_size=rows, bf16=bf16),
            progress=False,
        )
        for bf16 in (None, True)
    ]
    for plain, half in zip(*histories, strict=True):
        assert half["next_token"] == pytest.approx(plain["next_token"], rel=0.02)
        assert half["next_token"] != plain["next_token"]
        assert half["contrastive"] == pytest.approx(plain["contrastive"], rel=0.1)


def test_weights_in_bfloat16_encode_and_train_on_a_cpu():
    embedder = vk.attach(tiny_lvlm(dtype=torch.bfloat16))
    history = vk.fit(embedder, tiny_pairs(9), vk.Settings(steps=2, batch_size=4, warmup=1), progress=False)
    assert all(0 < row["loss"] < 20 for row in history)
    assert embedder.encode_text(["a dog"]).isfinite().all()


def test_states_that_are_not_finite_stop_encoding_and_training(lvlm, pairs):
    check_finite(torch.ones(3), torch.float16)
    with pytest.raises(NonFiniteError, match="float16, whose numbers end at 65,504.*float32"):
        check_finite(torch.tensor([1.0, float("inf")]), torch.float16)
    embedder = vk.attach(lvlm)
    lvlm.model.model.language_model.norm.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="summary states"):
        embedder.encode_text(["a dog"])
    before = {name: value.clone() for name, value in embedder.lvlm.model.state_dict().items() if "lora_" in name}
    with pytest.raises(NonFiniteError, match="losses"):
        vk.fit(embedder, pairs, vk.Settings(steps=1, batch_size=4), progress=False)
    now = embedder.lvlm.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())  # nothing learned is lost


@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 2}, {"max_grad_norm": 0.0}], ids=str)
def test_gradients_that_run_over_under_a_finite_loss_stop_before_they_reach_a_weight(settings):
    embedder = tiny_embedder()
    learning = {name: weight for name, weight in embedder.lvlm.model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in learning.items()}
    next(iter(learning.values())).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match="the gradients are not finite in float32"):
        vk.fit(embedder, tiny_pairs(9), vk.Settings(steps=1, batch_size=4, warmup=0, **settings), progress=False)
    assert all(torch.equal(weight, before[name]) for name, weight in learning.items())


def test_four_bits_without_bitsandbytes_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    without = lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(MissingExtra, match=r"pip install 'vladva-kit\[4bit\]'"):
        vk.load_lvlm(four_bit=True)


def test_weights_that_are_not_safetensors_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytest_model.bin").write_bytes(b"")
    with pytest.raises(UnknownModel, match=r"no \*\.safetensors"):
        vk.load_lvlm(str(tmp_path))


def test_a_missing_package_that_pictures_need_is_not_hidden(monkeypatch):
    import transformers

    def fails(*_, **__):
        raise ImportError("no such package")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", fails)
    with pytest.raises(ImportError, match="no such package"):
        loading.load_lvlm("emoji-llava")
