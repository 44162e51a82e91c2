"""Faults of a run's folder: signals, damaged checkpoints, a second run, other settings, full disks, lost folders."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tiny import CAPTIONS, fit, small, stop_after, tiny_embedder, tiny_lvlm, tiny_pairs
from transformers import TrainerCallback

import vladva_kit as vk
from vladva_kit.embedder.adapter import adapter_state
from vladva_kit.models.device import NonFiniteError
from vladva_kit.models.files import LOCK, folder_lock
from vladva_kit.training.checkpoints import MANIFEST, RUN, incomplete
from vladva_kit.training.checkpoints import write_manifest as write
from vladva_kit.training.interruption import RunInterrupted

pytestmark = pytest.mark.usefixtures("one_thread", "default_signals")
TESTS = Path(__file__).parents[1]


@pytest.fixture
def default_signals():
    """Handle signals as in a terminal: under nohup, or in the background of a script, some are ignored from the start.

    Processes started by a test inherit it.
    """
    handlers = {
        signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL,
    }  # fmt: skip
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class AtStep(TrainerCallback):
    """Call a function before the end of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_optimizer_step(self, args, state, control, **_):
        if state.global_step + 1 == self.step:
            self.action()


def kill_with(number):
    return lambda: os.kill(os.getpid(), number)


def run(folder, embedder=None, **options):
    embedder, callbacks = embedder or tiny_embedder(), options.pop("callbacks", ())
    history = fit(embedder, small(output_dir=str(folder), **{"steps": 4, "save_every": 50, **options}),
                  callbacks=callbacks)  # fmt: skip
    return history, adapter_state(embedder.lvlm)


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_saves_the_step_and_the_resumed_run_ends_like_an_uninterrupted_one(tmp_path, capsys, name, code):
    expected_history, expected = run(tmp_path / "whole")
    number = getattr(signal, name)
    before = signal.getsignal(number)
    embedder = tiny_embedder()
    with pytest.raises(RunInterrupted) as stopped:
        run(tmp_path / "cut", embedder, callbacks=[AtStep(2, kill_with(number))])
    assert stopped.value.code == code and signal.getsignal(number) == before
    saved = tmp_path / "cut" / "checkpoint-2"
    assert incomplete(saved) is None
    assert f"stopped by {name}: {saved} holds the adapter" in capsys.readouterr().out
    loaded = vk.Embedder.from_pretrained(saved, tiny_lvlm())
    assert torch.equal(loaded.encode_text(CAPTIONS), embedder.encode_text(CAPTIONS))
    history, state = run(tmp_path / "cut", resume=True)
    assert [row["loss"] for row in history] == [row["loss"] for row in expected_history]
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_second_interrupt_stops_at_once_and_an_ignored_signal_stays_ignored(tmp_path):
    def twice():
        kill_with(signal.SIGINT)()
        kill_with(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "twice", callbacks=[AtStep(2, twice)])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        history, _ = run(tmp_path / "nohup", callbacks=[AtStep(2, kill_with(signal.SIGHUP))])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(history) == 4


def test_in_a_notebook_and_without_a_folder_an_interrupt_stays_a_keyboard_interrupt(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_embedder(), small(), callbacks=[AtStep(2, kill_with(signal.SIGINT))])
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[AtStep(2, kill_with(signal.SIGINT))])


def test_the_command_exits_with_143_and_writes_the_adapter(tmp_path):
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(TESTS)!r})
        import torch; torch.set_num_threads(1)
        from tiny import tiny_lvlm, tiny_pairs
        import vladva_kit as vk
        from vladva_kit.cli.app import main
        from vladva_kit.training.trainer import VladvaTrainer
        vk.load_lvlm = lambda name: tiny_lvlm()
        vk.load_pairs = lambda *_, **__: tiny_pairs(12)
        step = VladvaTrainer.training_step
        def terminated(self, *arguments, **keywords):
            if self.state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, *arguments, **keywords)
        VladvaTrainer.training_step = terminated
        sys.argv = ["vladva", "train", "emoji_pairs", "--out", {str(tmp_path)!r}, "--batch-size", "6", "--seed", "3"]
        main()
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert ended.returncode == 143, ended.stderr
    assert f"To resume: vladva train emoji_pairs --out {tmp_path} --batch-size 6 --seed 3 --resume" in ended.stdout
    assert vk.Embedder.from_pretrained(tmp_path / "adapter", tiny_lvlm()).trainable()["LoRA"] > 0
    assert incomplete(tmp_path / "checkpoints" / "checkpoint-2") is None


@pytest.mark.parametrize("damage", ["truncated state", "no manifest", "flipped weights", "missing optimizer"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(tmp_path, damage):
    expected_history, expected = run(tmp_path / "whole", save_every=1)
    fit(tiny_embedder(), small(output_dir=str(tmp_path / "cut"), steps=4, save_every=1), deadline=stop_after(3))
    last = tmp_path / "cut" / "checkpoint-3"
    if damage == "truncated state":
        path = last / "trainer_state.json"
        path.write_text(path.read_text()[:40])
    elif damage == "no manifest":
        (last / MANIFEST).unlink()
    elif damage == "flipped weights":
        path = last / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    else:
        (last / "optimizer.pt").unlink()
    with pytest.warns(UserWarning, match=r"checkpoint-3 is incomplete \(.*\): checkpoint-2 is used"):
        history, state = run(tmp_path / "cut", save_every=1, resume=True)
    assert [row["loss"] for row in history] == [row["loss"] for row in expected_history]
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_older_checkpoints_are_removed_only_after_the_new_one_is_complete(tmp_path, monkeypatch):
    def cut(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("vladva_kit.training.checkpoints.write_manifest",
                        lambda folder: cut(folder) if folder.name == "checkpoint-3" else write(folder))  # fmt: skip
        run(tmp_path, save_every=1)
    assert incomplete(tmp_path / "checkpoint-1") is None and incomplete(tmp_path / "checkpoint-2") is None


def test_a_second_run_in_the_folder_is_refused_before_it_writes(tmp_path):
    def second():
        files = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on {socket.gethostname()}, started"):
            run(tmp_path, resume=True)
        assert sorted(tmp_path.rglob("*")) == files

    history, _ = run(tmp_path, save_every=1, callbacks=[AtStep(3, second)])
    assert len(history) == 4 and (tmp_path / LOCK).read_text() == ""


def test_the_lock_of_a_killed_process_is_taken_over_and_that_of_a_living_one_is_not(tmp_path):
    script = f"""
        import sys, time
        from pathlib import Path
        from vladva_kit.models.files import folder_lock
        with folder_lock(Path({str(tmp_path)!r})):
            print("locked", flush=True)
            time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(ValueError, match=f"in use by process {other.pid}"), folder_lock(tmp_path):
                pass
        finally:
            other.kill()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == other.pid  # it survives the crash
    with folder_lock(tmp_path) as check:
        check()
    owner = {"pid": os.getpid(), "host": "elsewhere", "started": 0}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with pytest.raises(ValueError, match=r"on elsewhere, .* if it has ended, remove"), folder_lock(tmp_path):
        pass
    (tmp_path / LOCK).write_text(json.dumps({**owner, "host": socket.gethostname()}))  # the number was used again
    with folder_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "options, named",
    [
        ({"seed": 1}, "settings.seed: 0 in the run, 1 now"),
        ({"batch_size": 4}, "settings.batch_size: 6 in the run, 4 now"),
        ({"steps": 5}, "settings.steps: 4 in the run, 5 now"),
        ({"learning_rate": 0.01}, "settings.learning_rate: 0.001 in the run, 0.01 now"),
    ],
    ids=str,
)
def test_resuming_with_another_setting_is_refused_by_name_and_allowed_on_request(tmp_path, options, named):
    fit(tiny_embedder(), small(output_dir=str(tmp_path), steps=4, save_every=1), deadline=stop_after(2))
    with pytest.raises(ValueError, match=f"{re.escape(named)}.*--resume-anyway"):
        run(tmp_path, resume=True, **options)
    with pytest.warns(UserWarning, match=re.escape(named)):
        history, _ = run(tmp_path, resume=True, resume_anyway=True, **options)
    assert history[-1]["step"] == options.get("steps", 4)


def test_resuming_with_other_data_or_another_adapter_is_refused_by_name(tmp_path):
    settings = {"output_dir": str(tmp_path), "steps": 4, "save_every": 1}
    fit(tiny_embedder(), small(**settings), deadline=stop_after(2))
    with pytest.raises(ValueError, match="data.pairs: 12 in the run, 13 now; data.captions"):
        fit(tiny_embedder(), small(resume=True, **settings), tiny_pairs(13))
    with pytest.raises(ValueError, match="adapter.lora.r: 16 in the run, 4 now"):
        run(tmp_path, vk.attach(tiny_lvlm(), lora={"r": 4}, quiet=True), resume=True)
    assert json.loads((tmp_path / RUN).read_text())["ranks"] == 1
    harmless = {"micro_batch_size": 3, "save_every": 2}
    assert len(run(tmp_path, resume=True, **harmless)[0]) == 4


def test_a_new_learning_rate_takes_effect_when_it_is_allowed(tmp_path):
    fit(tiny_embedder(), small(output_dir=str(tmp_path), steps=4, save_every=1), deadline=stop_after(2))
    before = adapter_state(vk.Embedder.from_pretrained(tmp_path / "checkpoint-2", tiny_lvlm()).lvlm)
    with pytest.warns(UserWarning, match="learning_rate"):
        _, state = run(tmp_path, resume=True, resume_anyway=True, learning_rate=0.0, soft_prompt_learning_rate=0.0)
    assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_a_nan_in_an_image_names_step_and_image_and_keeps_the_weights_before(tmp_path, monkeypatch, micro_batch_size):
    from vladva_kit.training.collator import Collator

    collate = Collator.__call__

    def with_nan(self, pairs):
        batch = collate(self, pairs)
        with_nan.calls += 1
        if with_nan.calls == 3:
            batch["batch"].images.inputs["pixel_values"][2, 0, 5, 5] = float("nan")
            with_nan.name = pairs[2].where
        return batch

    with_nan.calls = 0
    monkeypatch.setattr(Collator, "__call__", with_nan)
    embedder = tiny_embedder()
    with pytest.raises(NonFiniteError) as failed:
        run(tmp_path, embedder, micro_batch_size=micro_batch_size)
    saved = tmp_path / "checkpoint-2"
    assert "step 3: the losses are not finite in float32: an input or a weight holds NaN" in str(failed.value)
    assert f"image 2 ({with_nan.name})" in str(failed.value)
    assert f"{saved} holds the weights" in str(failed.value)
    assert "float32, or with" not in str(failed.value) and incomplete(saved) is None
    loaded = adapter_state(vk.Embedder.from_pretrained(saved, tiny_lvlm()).lvlm)
    now = adapter_state(embedder.lvlm)
    assert all(torch.equal(now[name], loaded[name]) and now[name].isfinite().all() for name in now)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


FAULTS = {
    "state": ("transformers.trainer_callback.TrainerState.save_to_json", full_disk),
    "adapter": ("peft.peft_model.safe_save_file",
                lambda *_, **__: (_ for _ in ()).throw(SafetensorError("I/O error: No space left on device"))),
    "optimizer": ("transformers.trainer.torch.save",
                  lambda *_, **__: (_ for _ in ()).throw(RuntimeError("[enforce fail] PytorchStreamWriter failed"))),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_full_disk_is_one_sentence_and_leaves_the_older_checkpoint(tmp_path, monkeypatch, fault):
    def break_disk():
        monkeypatch.setattr(*FAULTS[fault])

    with pytest.raises(OSError, match=r"checkpoint-2 cannot be written \(.*\): free space"):
        run(tmp_path, save_every=1, callbacks=[AtStep(2, break_disk)])
    assert incomplete(tmp_path / "checkpoint-1") is None and incomplete(tmp_path / "checkpoint-2") is not None


@pytest.mark.parametrize("fault", ["removed", "renamed"])
def test_a_lost_folder_stops_the_run_and_is_not_made_again(tmp_path, fault):
    folder, moved = tmp_path / "run", tmp_path / "moved"

    def lose():
        shutil.rmtree(folder) if fault == "removed" else folder.rename(moved)

    with pytest.raises(OSError, match="run was removed, renamed or taken over during the run"):
        run(folder, save_every=1, callbacks=[AtStep(2, lose)])
    assert not folder.exists() and (fault == "removed" or incomplete(moved / "checkpoint-1") is None)
