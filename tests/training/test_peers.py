"""If one rank fails or dies, the others end within a minute and name the reason."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from vladva_kit.training import peers
from vladva_kit.training.peers import watching_ranks

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
    import os, signal, sys, time
    import torch
    torch.set_num_threads(1)
    from transformers import TrainerCallback
    from tiny import fit, small, tiny_embedder
    from vladva_kit.training import peers

    peers.BEAT, peers.GRACE = 0.5, 3.0

    class Fault(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                {fault}

    rank = int(os.environ["RANK"])
    fit(tiny_embedder(), small(batch_size=4, steps=1000, output_dir={folder!r}), callbacks=[Fault()])
"""
FAULTS = {
    "raises": ("if rank == 1: raise ValueError('image 7 is broken')", "rank 1 failed with ValueError: image 7 is"),
    # rank 0 does not notice by itself, as in a collective operation of NCCL
    "killed, unnoticed": (
        "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(1000)",
        "rank 0: rank 1 no longer answers: its process or machine has died; this rank stops too",
    ),
}  # fmt: skip


def start(rank, script, port):
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank)}
    environment |= {"LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_other_rank_ends_with_the_reason(tmp_path, fault):
    action, reason = FAULTS[fault]
    script = textwrap.dedent(SCRIPT.format(fault=action, folder=str(tmp_path / "run")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    failing, other = (start(rank, script, port) for rank in (1, 0))
    failing.communicate(timeout=300)
    died = time.monotonic()
    try:
        _, words = other.communicate(timeout=60)
    finally:
        other.kill()
    assert time.monotonic() - died < 60 and other.returncode == 1
    assert reason in words and "resume with resume=True (--resume)" in words


def test_a_single_process_has_no_thread():
    with watching_ranks():
        assert not [thread for thread in threading.enumerate() if thread.name == "ranks"]


def test_the_end_waits_until_the_thread_has_left_the_store(monkeypatch):
    class SlowStore:
        def set(self, key, value):
            time.sleep(0 if value == "end" else 0.5)

        def check(self, keys):
            return False

    monkeypatch.setattr(peers.dist, "TCPStore", lambda *arguments, **keywords: None)
    monkeypatch.setattr(peers.dist, "PrefixStore", lambda prefix, store: SlowStore())
    monkeypatch.setattr(peers, "BEAT", 0.05)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with watching_ranks():
        time.sleep(0.1)  # the thread is inside the store now
    assert not [thread for thread in threading.enumerate() if thread.name == "ranks"]
