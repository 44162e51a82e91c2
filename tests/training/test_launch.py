"""The ready configurations: accelerate takes each, and those that CPUs can run train."""

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for number, pair in enumerate(tiny_pairs(8)):
        pair.image.save(folder / f"{number}.png")
        captions = {"short": pair.short, "long": pair.long or "a dog " * 20}
        lines.append(json.dumps({"file_name": f"{number}.png"} | {k: v for k, v in captions.items() if v}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


KIT, SHARDED = ("-m", "vladva_kit"), (str(ROOT / "tests" / "sharding_on_cpus.py"),)
CHUNKS = ("--micro-batch-size", "2")


def launch(config: str, folder: Path, out: Path, *more: str, program=KIT, options=CHUNKS) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "docs" / "accelerate" / f"{config}.yaml"),
        *more, *program, "train", str(folder), "--out", str(out), "--steps", "2", "--batch-size", "4", *options,
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def history(process: subprocess.Popen, out: Path) -> list[dict]:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return json.loads((out / "history.json").read_text())


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_there_is_a_configuration_for_each_kind_of_machine():
    assert [path.stem for path in CONFIGS] == ["ddp", "deepspeed_zero2", "fsdp2", "one_gpu", "two_nodes"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_takes_the_configuration(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= config.num_machines
    assert config.distributed_type.value == {
        "one_gpu": "NO", "ddp": "MULTI_GPU", "two_nodes": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED",
    }[path.stem]  # fmt: skip


@pytest.fixture(scope="module")
def one(folder, tmp_path_factory):
    """What one process leaves behind."""
    return tmp_path_factory.mktemp("one")


@pytest.fixture(scope="module")
def alone(folder, one):
    return history(launch("one_gpu", folder, one, "--cpu"), one)


def assert_alike(found: list[dict], wanted: list[dict], out: Path, one: Path) -> None:
    """Losses of both steps, and what was learned, by the adapters that were saved."""
    for step, other in zip(found, wanted, strict=True):
        for name in ("loss", "contrastive", "next_token"):
            assert step[name] == pytest.approx(other[name], rel=1e-4)
    learned, known = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (out, one))
    assert {name: value.shape for name, value in learned.items()} == {
        name: value.shape for name, value in known.items()
    }
    moved = [name for name, value in known.items() if "lora_B" in name and value.abs().sum() > 0]  # they begin at 0
    assert len(moved) > 5
    for name in moved:
        assert (learned[name] - known[name]).norm() < 0.02 * known[name].norm()


def test_one_process_two_processes_and_two_machines_train_alike(folder, tmp_path, alone, one):
    together = history(launch("ddp", folder, tmp_path / "two", "--main_process_port", free_port()), tmp_path / "two")
    port, machines = free_port(), ("--num_processes", "2", "--machine_rank")
    nodes = [
        launch("two_nodes", folder, tmp_path / "nodes", *machines, str(number), "--main_process_port", port)
        for number in range(2)
    ]
    apart = history(nodes[0], tmp_path / "nodes")
    said, _ = nodes[1].communicate(timeout=60)
    assert nodes[1].returncode == 0, said
    assert_alike(together, alone, tmp_path / "two", one)
    assert_alike(apart, alone, tmp_path / "nodes", one)


def test_sharded_by_fsdp2_two_processes_train_alike_and_the_adapter_is_saved_whole(folder, tmp_path, alone, one):
    process = launch("fsdp2", folder, tmp_path, "--main_process_port", free_port(), program=SHARDED)
    assert_alike(history(process, tmp_path), alone, tmp_path, one)
    checkpoint = load_file(tmp_path / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name: value.shape for name, value in checkpoint.items()} == {n: value.shape for n, value in saved.items()}


@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="needs deepspeed, and a C++ compiler for it")
def test_by_deepspeeds_zero_2_two_processes_train_alike(folder, tmp_path, alone, one):
    process = launch("deepspeed_zero2", folder, tmp_path, "--main_process_port", free_port(), options=())
    assert_alike(history(process, tmp_path), alone, tmp_path, one)
