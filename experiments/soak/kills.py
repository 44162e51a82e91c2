"""Kill runs at random moments, resume them, and compare their results with those of an uninterrupted run."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.soak.tasks import RESULT, TASKS, make_world, run_task

PATIENCE = 120.0  # seconds, beyond 20 times the duration of an uninterrupted run: then a run is called hung
INTERRUPTED = 143  # the exit code after SIGTERM


@dataclass
class Count:
    """What happened to the runs of one task."""

    kills: int = 0  # by SIGKILL, in a running process
    terminated: int = 0  # by SIGTERM, after which training saves a checkpoint
    resumed: int = 0  # runs that were killed at least once and then ended
    equal: int = 0  # of these, with results equal bit for bit to those of an uninterrupted run
    failed: list[str] = field(default_factory=list)


def kill_runs(folder: Path, kills: int, seconds: float, seed: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Kill runs of all tasks in turn until there were `kills` or the time is over; return the counts.

    kill_runs(Path("scratch"), kills=50, seconds=1800, seed=0, log=print)["tasks"]["embed"]["equal"]
    """
    end, rng, world = time.perf_counter() + seconds, random.Random(seed), make_world(folder / "world")
    counts = {name: Count() for name in TASKS}
    expected: dict[str, tuple[str | None, float]] = {}
    done = 0
    while done < kills:
        for name, count in counts.items():
            if time.perf_counter() > end or done >= kills:
                return {"tasks": {name: asdict(count) for name, count in counts.items()}, "asked": kills}
            if name not in expected:
                expected[name] = _uninterrupted(name, world, folder, count)
            digest, duration = expected[name]
            if digest is not None:
                done += _trial(name, world, folder / "run", rng, count, digest, duration)
                log(f"{done}/{kills} kills; {name}: {count.equal} of {count.resumed} resumed runs equal")
    return {"tasks": {name: asdict(count) for name, count in counts.items()}, "asked": kills}


def _uninterrupted(name: str, world: Path, folder: Path, count: Count) -> tuple[str | None, float]:
    """Run a task to its end; return its digest, None if it failed, and its duration."""
    out, start = folder / "whole", time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    code = _wait(_start(name, world, out), 10 * PATIENCE)
    if code != 0:
        count.failed.append(f"the uninterrupted run ended with {code}: {_last_words(out)}")
        return None, 0.0
    return _digest(out), time.perf_counter() - start


def _trial(name: str, world: Path, out: Path, rng: random.Random, count: Count, expected: str, duration: float) -> int:
    """Kill a run once or twice, let it end, and compare; return the number of kills."""
    shutil.rmtree(out, ignore_errors=True)
    moments, kills, code = [], 0, None
    for _ in range(rng.choice((1, 1, 2))):
        number = signal.SIGTERM if name.startswith("train") and rng.random() < 0.3 else signal.SIGKILL
        moments.append(f"{number.name} at {rng.uniform(0.02, 1) * duration:.2f} s")
        process = _start(name, world, out)
        process.join(float(moments[-1].split()[2]))
        if process.is_alive():
            kills += 1
            count.kills += number == signal.SIGKILL
            count.terminated += number == signal.SIGTERM
            _signal(process, number)
        code = _wait(process, 20 * duration + PATIENCE)
        if number == signal.SIGTERM and code not in (INTERRUPTED, -number, 0):  # -15: before training began
            count.failed.append(f"{', '.join(moments)}: exit code {code}: {_last_words(out)}")
    code = _wait(_start(name, world, out), 20 * duration + PATIENCE)
    count.resumed += kills > 0
    if code != 0:
        count.failed.append(f"{', '.join(moments)}: the resumed run ended with {code}: {_last_words(out)}")
    elif _digest(out) != expected:
        count.failed.append(f"{', '.join(moments)}: the results differ from those of an uninterrupted run")
    else:
        count.equal += kills > 0
    return kills


def _start(name: str, world: Path, out: Path) -> multiprocessing.Process:
    """Start a run in a forked process: libraries are imported already, so that moments fall into the run itself."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, world, out))
    process.start()
    return process


def _child(name: str, world: Path, out: Path) -> None:
    os.setsid()  # its loader's workers are killed with it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the soak test
    out.mkdir(parents=True, exist_ok=True)
    with (out.parent / f"{out.name}.log").open("w") as words:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
        try:
            run_task(name, world, out)
        except Exception:
            traceback.print_exc()
            os._exit(1)


def _wait(process: multiprocessing.Process, seconds: float) -> int | str:
    """Wait for a process; return its exit code, or "hung" after killing it."""
    process.join(seconds)
    if process.is_alive():
        _signal(process, signal.SIGKILL)
        process.join()
        return "hung"
    return process.exitcode


def _signal(process: multiprocessing.Process, number: int) -> None:
    """Kill a process with its workers; SIGTERM goes to the process itself, as a scheduler sends it."""
    try:
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:  # it ended, or has not called setsid yet
        process.kill()


def _digest(out: Path) -> str:
    return json.loads((out / RESULT).read_text())["digest"]


def _last_words(out: Path) -> str:
    path = out.parent / f"{out.name}.log"
    return " ".join(path.read_text(errors="replace").split())[-300:] if path.is_file() else ""
