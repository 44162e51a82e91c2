"""The ready configurations: accelerate takes each, and those that CPUs can run train."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from tiny import tiny_pairs

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


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


def launch(config: str, folder: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "configs" / f"{config}.yaml"),
        *more, "-m", "vladva_kit", "train", str(folder), "--out", str(out), "--steps", "1", "--batch-size", "4",
        "--micro-batch-size", "2",
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


def test_one_process_two_processes_and_two_machines_train_alike(folder, tmp_path):
    alone = history(launch("one_gpu", folder, tmp_path / "one", "--cpu"), tmp_path / "one")
    together = history(launch("ddp", folder, tmp_path / "two", "--main_process_port", free_port()), tmp_path / "two")
    port, machines = free_port(), ("--num_processes", "2", "--machine_rank")
    nodes = [
        launch("two_nodes", folder, tmp_path / "nodes", *machines, str(number), "--main_process_port", port)
        for number in range(2)
    ]
    apart = history(nodes[0], tmp_path / "nodes")
    said, _ = nodes[1].communicate(timeout=60)
    assert nodes[1].returncode == 0, said
    for name in ("loss", "contrastive", "next_token"):
        assert together[0][name] == pytest.approx(alone[0][name], rel=1e-4)
        assert apart[0][name] == pytest.approx(alone[0][name], rel=1e-4)
    assert (tmp_path / "two" / "adapter" / "adapter_model.safetensors").is_file()
