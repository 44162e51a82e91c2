"""The shipped accelerate configurations: accelerate accepts each, and those that run on CPUs train alike."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from tiny import tiny_pairs

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "docs" / "accelerate").glob("*.yaml"))
KIT, SHARDED = ("-m", "vladva_kit"), (str(ROOT / "tests" / "sharding_on_cpus.py"),)
MICRO_BATCHES = ("--micro-batch-size", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An imagefolder of 8 pairs; some lack a caption, some have negatives."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for index, pair in enumerate(tiny_pairs(8)):
        pair.image.save(folder / f"{index}.png")
        captions = {"short": pair.short, "long": pair.long, "negatives": pair.negatives}
        lines.append(json.dumps({"file_name": f"{index}.png"} | {k: v for k, v in captions.items() if v}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def launch(config: str, data: Path, out: Path, *options: str, program=KIT, arguments=MICRO_BATCHES) -> subprocess.Popen:
    """Start `accelerate launch [options] program train data --out out [arguments]`."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", str(ROOT / "docs" / "accelerate" / f"{config}.yaml"), *options,
        *program, "train", str(data), "--out", str(out), "--steps", "2", "--batch-size", "4", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


@pytest.fixture(scope="module")
def one_process(data, tmp_path_factory):
    """The output folder of a run on one process."""
    out = tmp_path_factory.mktemp("one")
    finish(launch("one_gpu", data, out, "--cpu"))
    return out


def assert_same_run(out: Path, expected: Path) -> None:
    """Compare losses of both steps and the saved adapters."""
    history, expected_history = (json.loads((folder / "history.json").read_text()) for folder in (out, expected))
    for row, expected_row in zip(history, expected_history, strict=True):
        for name in ("loss", "contrastive", "next_token"):
            assert row[name] == pytest.approx(expected_row[name], rel=1e-4)
    weights, expected_weights = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (out, expected)
    )
    assert {name: weight.shape for name, weight in weights.items()} == {
        name: weight.shape for name, weight in expected_weights.items()
    }
    trained = [name for name, weight in expected_weights.items() if "lora_B" in name and weight.abs().sum() > 0]
    assert len(trained) > 5  # they start at 0
    for name in trained:
        assert (weights[name] - expected_weights[name]).norm() < 0.02 * expected_weights[name].norm()


def test_there_is_a_configuration_for_each_kind_of_machine():
    assert [path.stem for path in CONFIGS] == ["ddp", "deepspeed_zero2", "fsdp2", "one_gpu", "two_nodes"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_accepts_the_configuration(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= config.num_machines
    assert config.distributed_type.value == {
        "one_gpu": "NO", "ddp": "MULTI_GPU", "two_nodes": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED",
    }[path.stem]  # fmt: skip


def test_two_processes_train_like_one(data, tmp_path, one_process):
    finish(launch("ddp", data, tmp_path, "--main_process_port", free_port()))
    assert_same_run(tmp_path, one_process)


def test_two_machines_train_like_one_process(data, tmp_path, one_process):
    port = free_port()
    machines = [
        launch(
            "two_nodes",
            data,
            tmp_path,
            "--num_processes",
            "2",
            "--machine_rank",
            str(rank),
            "--main_process_port",
            port,
        )
        for rank in range(2)
    ]
    for machine in machines:
        finish(machine)
    assert_same_run(tmp_path, one_process)


def test_two_processes_with_fsdp2_train_like_one_and_save_the_full_adapter(data, tmp_path, one_process):
    finish(launch("fsdp2", data, tmp_path, "--main_process_port", free_port(), program=SHARDED))
    assert_same_run(tmp_path, one_process)
    checkpoint = load_file(tmp_path / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name: weight.shape for name, weight in checkpoint.items()} == {
        n: weight.shape for n, weight in saved.items()
    }


@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="needs deepspeed and a C++ compiler for it")
def test_two_processes_with_deepspeed_zero2_train_like_one(data, tmp_path, one_process):
    finish(launch("deepspeed_zero2", data, tmp_path, "--main_process_port", free_port(), arguments=()))
    assert_same_run(tmp_path, one_process)
