"""Settings become TrainingArguments; any other field of these can be set; checkpoints that a run resumes from."""

import re

import numpy as np
import pytest
import torch
from tiny import fit, small, tiny_embedder

import vladva_kit as vk
from vladva_kit.data.hard_batches import Mining
from vladva_kit.training.checkpoints import last_checkpoint, write_manifest
from vladva_kit.training.settings import loader_workers, split_soft_prompt_group, trainer_arguments

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


COUNTS = ("steps", "batch_size", "save_every", "validate_every", "micro_batch_size", "short_limit")
RATES = ("learning_rate", "soft_prompt_learning_rate", "weight_decay", "next_token_weight", "distill_weight")
RATES += ("distill_temperature", "max_grad_norm")
NOT_FINITE = [float(value) for value in ("nan", "inf", "-inf")]
UNUSABLE = [
    *((name, value, "whole number of at least 1") for name in COUNTS for value in (0, -3, 1.5, "100", True)),
    *((name, value, "whole number of at least 0") for name in ("warmup", "seed") for value in (-1, 0.5, None)),
    *(("workers", value, "whole number of at least 0") for value in (-1, 0.5, "2")),
    *((name, value, "finite number of at least 0") for name in RATES for value in (*NOT_FINITE, -0.1, "1e-4")),
    ("seed", 2**32, "below 2"),
    ("long_limit", 20, "at least short_limit=30"),
    ("trainer", ["seed"], "a dict"),
    ("report_to", "tensorboard", "set output_dir too"),
    ("report_to", ["wandb", "codecarbon"], "set output_dir too"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), UNUSABLE, ids=str)
def test_an_unusable_value_raises_and_names_field_value_and_range(name, value, allowed):
    with pytest.raises(ValueError, match=rf"Settings\({name}={re.escape(repr(value))}\): .*{allowed}") as raised:
        vk.Settings(**{name: value})
    assert len(str(raised.value).splitlines()) == 1


def test_values_at_the_ends_of_the_ranges_and_numpys_numbers_are_taken():
    given = {"steps": np.int64(1), "learning_rate": np.float32(1e-4), "warmup": 0, "weight_decay": 0}
    given |= {"max_grad_norm": 0, "seed": 2**32 - 1, "next_token_weight": 0}
    given |= {"soft_prompt_learning_rate": None, "micro_batch_size": None}
    settings = vk.Settings(**given)
    assert {name: getattr(settings, name) for name in given} == given


def test_settings_become_training_arguments(embedder, tmp_path):
    settings = vk.Settings(
        steps=7, batch_size=6, learning_rate=1e-3, warmup=2, weight_decay=0.1, max_grad_norm=0.5, seed=3,
        output_dir=str(tmp_path), save_every=4, validate_every=5, group_by_length=True,
    )  # fmt: skip
    arguments = trainer_arguments(embedder, settings, "scratch", validated=True)
    values = {
        "max_steps": 7, "per_device_train_batch_size": 6, "learning_rate": 1e-3, "warmup_steps": 2,
        "weight_decay": 0.1, "max_grad_norm": 0.5, "seed": 3, "output_dir": str(tmp_path), "save_steps": 4,
        "eval_steps": 5, "lr_scheduler_type": "cosine", "save_strategy": "steps", "eval_strategy": "steps",
        "train_sampling_strategy": "group_by_length", "dataloader_drop_last": True,
    }  # fmt: skip
    assert {name: getattr(arguments, name) for name in values} == values


def test_without_output_dir_and_validation_nothing_is_saved_or_evaluated(embedder):
    arguments = trainer_arguments(embedder, vk.Settings(), "scratch")
    assert arguments.output_dir == "scratch"
    assert (arguments.save_strategy, arguments.eval_strategy) == ("no", "no")


def test_trainer_passes_any_other_field(embedder):
    trainer = {"lr_scheduler_type": "constant_with_warmup", "adam_beta2": 0.95, "logging_steps": 5}
    arguments = trainer_arguments(embedder, vk.Settings(trainer=trainer), "scratch")
    assert {name: getattr(arguments, name) for name in trainer} == trainer


def test_an_unknown_field_raises_and_names_close_ones(embedder):
    with pytest.raises(ValueError, match=r"'lr_schedule_type': ….*no such field; close: lr_scheduler_type"):
        trainer_arguments(embedder, vk.Settings(trainer={"lr_schedule_type": "linear"}), "scratch")
    with pytest.raises(ValueError, match="no such field; close: see transformers.TrainingArguments"):
        trainer_arguments(embedder, vk.Settings(trainer={"zzzz": 1}), "scratch")


@pytest.mark.parametrize(
    "name, setting",
    [
        ("learning_rate", "learning_rate"),
        ("seed", "seed"),
        ("output_dir", "output_dir"),
        ("max_steps", "steps"),
        ("per_device_train_batch_size", "batch_size"),
        ("warmup_steps", "warmup"),
        ("save_steps", "save_every"),
        ("eval_steps", "validate_every"),
        ("resume_from_checkpoint", "resume"),
        ("dataloader_num_workers", "workers"),
    ],
)
def test_a_field_that_settings_has_raises_and_names_the_setting(embedder, name, setting):
    with pytest.raises(ValueError, match=rf"'{name}': 3.*repeats a setting: use Settings\({setting}=3\)"):
        trainer_arguments(embedder, vk.Settings(trainer={name: 3}), "scratch")


def test_gradient_accumulation_raises_and_names_micro_batch_size(embedder):
    with pytest.raises(ValueError, match="does not enlarge a contrastive batch.*micro_batch_size"):
        trainer_arguments(embedder, vk.Settings(trainer={"gradient_accumulation_steps": 2}), "scratch")
    settings = vk.Settings(trainer={"gradient_accumulation_steps": 1})
    assert trainer_arguments(embedder, settings, "scratch").gradient_accumulation_steps == 1


def test_logs_of_a_tracker_are_kept_in_output_dir(tmp_path):
    vk.Settings(report_to="wandb")  # keeps its own
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    settings = small(output_dir=str(tmp_path), report_to="tensorboard")
    fit(tiny_embedder(), settings)
    assert any(path.name.startswith("events.out") for path in tmp_path.rglob("*"))


def test_workers_are_used_by_default_where_a_gpu_waits_for_images(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("multiprocessing.get_start_method", lambda **_: "fork")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader_workers(vk.Settings(), cpu) == 0 and loader_workers(vk.Settings(), gpu) == 4
    assert loader_workers(vk.Settings(workers=2), cpu) == 2 and loader_workers(vk.Settings(workers=0), gpu) == 0
    assert loader_workers(vk.Settings(cache_images="memory"), gpu) == 0  # nothing to decode
    assert loader_workers(vk.Settings(mining=Mining(refresh_every=5)), gpu) == 0
    monkeypatch.setattr("multiprocessing.get_start_method", lambda **_: "spawn")
    assert loader_workers(vk.Settings(), gpu) == 0 and loader_workers(vk.Settings(workers=2), gpu) == 2
    monkeypatch.setattr("multiprocessing.get_start_method", lambda **_: "fork")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert loader_workers(vk.Settings(), gpu) == 1
    with pytest.raises(ValueError, match=r"Settings\(workers=2\): .*mining.refresh_every"):
        vk.Settings(workers=2, mining=Mining(refresh_every=5))


def checkpoint(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    if complete:
        (path / "trainer_state.json").write_text("{}")
        write_manifest(path)
    return str(path)


def test_a_run_resumes_from_the_last_complete_checkpoint(tmp_path):
    settings = vk.Settings(output_dir=str(tmp_path), resume=True)
    assert last_checkpoint(settings) is None
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)  # "10" sorts before "9" as text
    checkpoint(tmp_path, 11, complete=False)
    assert last_checkpoint(settings) == newest


def test_a_new_run_in_the_folder_of_an_earlier_one_raises(tmp_path):
    checkpoint(tmp_path, 5)
    with pytest.raises(ValueError, match=r"earlier run: resume it with resume=True \(--resume\)"):
        last_checkpoint(vk.Settings(output_dir=str(tmp_path)))


def test_resuming_without_output_dir_raises():
    assert last_checkpoint(vk.Settings()) is None
    with pytest.raises(ValueError, match="resume=True needs output_dir"):
        last_checkpoint(vk.Settings(resume=True))


def test_soft_prompts_move_to_a_group_with_their_own_learning_rate(embedder):
    adapter = embedder.lvlm.adapter
    trainable = {name: weight for name, weight in adapter.named_parameters() if weight.requires_grad}
    soft = {id(weight) for name, weight in trainable.items() if ".soft_prompt." in name}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-3, weight_decay=0.1)
    split_soft_prompt_group(optimizer, adapter, learning_rate=1e-3, rate=None)  # 50 times as fast by default
    rest, own = optimizer.param_groups
    assert {id(weight) for weight in own["params"]} == soft and len(soft) == 1
    assert {id(weight) for weight in rest["params"]} == {id(weight) for weight in trainable.values()} - soft
    assert (rest["lr"], own["lr"]) == (1e-3, 0.05) and own["weight_decay"] == 0.1
