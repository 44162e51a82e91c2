"""Medians of runs that take turns, and the page that a benchmark writes."""

from __future__ import annotations

import argparse
import cProfile
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vladva_kit import Embedder
from vladva_kit.evaluation import markdown
from vladva_kit.models.files import atomic_write, write_json
from vladva_kit.training.grad_cache import count_target_tokens
from vladva_kit.training.trainer import Batch

RESULTS = Path(__file__).parent / "results"
BUSY = os.getloadavg()[0]  # of the minute before
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def turns(ways: dict[str, Callable[[], Any]], runs: int = 5, warm: bool = False) -> dict[str, list[float]]:
    """Seconds of each way, `runs` times, the ways taking turns so that a busy moment hits all; one warm-up each.

    turns({"kit": lambda: encode(), "plain": lambda: plain()}, runs=5)

    warm: they have run already, so that no warm-up is needed.
    """
    if runs < 1:
        raise ValueError(f"{runs} runs: at least 1, and 5 for figures that are kept")
    for way in () if warm else ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """The median with the least and the largest: "1.20 (1.10–1.50)"."""
    return f"{median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """How many times as long one way takes as another: the median over the turns, so that slow moments weigh on both.

    ratio(seconds, "plain recipe", "kit")
    """
    return median([a / b for a, b in zip(seconds[one], seconds[other], strict=True)])


def in_process(module: str, function: str, **values: Any) -> dict[str, Any]:
    """What a function of a benchmark returns in a process of its own, or {"died": why} where that dies.

    in_process("experiments.benchmarks.step", "peak_of", who="kit", shape="tiny", device="cpu", dtype="float32", batch=8, rows=4)
    """
    told = json.dumps(json.dumps(values))
    code = f"import json, {module} as m; print(json.dumps(m.{function}(**json.loads({told}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        return {"died": f"killed by signal {-done.returncode}"}
    return {"died": done.stderr.strip().splitlines()[-1][:200]}


def contents(embedder: Embedder, batch: Batch) -> tuple[int, int, int]:
    """What a batch holds: tokens of both towers, those that are learned, and image tokens, a patch each.

    tokens, learned, patches = contents(embedder, batch)
    """
    tokens = sum(int(tower.inputs["attention_mask"].sum()) for tower in (batch.images, batch.texts))
    learned = count_target_tokens(batch.images, embedder.device)
    patches = int((batch.images.inputs["input_ids"] == embedder.lvlm.model.config.image_token_id).sum())
    return tokens, learned, patches


def operations(model: torch.nn.Module, tokens: int, learned: int, patches: int, forwards: int = 1) -> float:
    """Floating-point operations of a step in matrix products; attention's scores, a few per cent here, are left out.

    operations(embedder.lvlm.model, tokens=10_000, learned=4_000, patches=16_384)

    Two a weight and token forwards, and two backwards, since the LLM is frozen and only states get gradients. tokens:
    pass through the LLM; learned: meet its head too; patches: pass through the frozen tower, forwards alone and once.
    forwards: 2 with cached gradients, which embed everything once more without a graph; 0 for what has no backward.
    """
    decoder, tower = model.get_decoder(), model.model.vision_tower
    layers = sum(w.numel() for name, w in decoder.layers.named_parameters() if w.dim() == 2 and ".lora_" not in name)
    seen = sum(w.numel() for w in tower.parameters() if w.dim() == 2)
    return 2 * (forwards + 1) * layers * tokens + 4 * model.lm_head.weight.numel() * learned + 2 * seen * patches


def peak(device: str) -> float:
    """The most memory held since `forget_peak`, GB: the allocator's on a GPU, this process's on a CPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e9
    if STATUS.is_file():  # Linux; only there can the most so far be forgotten
        return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def forget_peak(device: str) -> None:
    """Lets `peak` begin anew at what is held now, so that preparations do not count."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, and is not held any more
        CLEAR.write_text("5")


def give_back_freed() -> None:
    """Lets a CPU process give blocks back to the system when they are freed, so that `peak` is what was held.

    Else what lies unused between blocks counts too, as it does not on a GPU, and grows with how long a step runs. It
    costs time: not for what is timed.
    """
    if CLEAR.exists() and hasattr(glibc := ctypes.CDLL(None), "mallopt"):
        glibc.mallopt(-3, 2**17)  # M_MMAP_THRESHOLD, which otherwise rises with the sizes that are freed


def arguments(about: str, **more: Any) -> argparse.Namespace:
    """A benchmark's options; each keyword is one more, with its default: arguments(__doc__, batch=64)."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--runs", type=int, default=5, help="medians over this many")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the page goes")
    for name, default in more.items():
        kind = type(default) if not isinstance(default, list) else type(default[0])
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, nargs="+" if isinstance(default, list) else None
        )
    return parser.parse_args()


def machine() -> str:
    """What the figures were measured on: processor, threads, memory and versions."""
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = [f"Python {platform.python_version()}"]
    for name in ("torch", "transformers", "peft", "sentence-transformers"):
        if importlib.util.find_spec(name.replace("-", "_")):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{on}, {torch.get_num_threads()} threads, {memory:.0f} GB, {', '.join(versions)}"


def _processor() -> str:
    told = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def free_memory() -> float:
    """GB that a process may still take: free_memory(); 0 where the system does not say."""
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable")), 0.0)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first row the heading."""
    heading, *rest = rows
    return markdown.table(heading, rest, "l" * len(heading)).removesuffix("\n")


def page(out: Path, name: str, about: str, parts: Sequence[str], values: dict[str, Any]) -> Path:
    """Writes out/name.md and out/name.json, whole; returns the page's path."""
    command = " ".join(["python -m", f"experiments.benchmarks.{name}", *sys.argv[1:]])
    title, *more = about.strip().split("\n\n")
    measured = f"Measured on {machine()}; {BUSY:.1f} other processes wanted to run when it began."
    text = "\n\n".join([f"# {title}", f"`{command}`", measured, *more, *parts])
    atomic_write({out / f"{name}.md": f"{text}\n".encode()})
    write_json(out / f"{name}.json", {"command": command, "machine": machine(), "busy": BUSY, **values})
    print(text)
    return out / f"{name}.md"


def profile(way: Callable[[], Any], most: int = 8) -> str:
    """Where a way's time goes, as a Markdown table: the operations that take the largest shares of one run."""
    on_gpu = torch.cuda.is_available()
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * on_gpu
    with torch.profiler.profile(activities=kinds) as seen:
        way()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent = sorted(((getattr(event, name), event) for event in seen.key_averages()), key=lambda one: -one[0])
    total = sum(time for time, _ in spent)
    rows = [["operation", "calls", "of the time"]]
    rows += [[f"`{event.key}`", str(event.count), f"{100 * time / total:.1f} %"] for time, event in spent[:most]]
    return table(rows)


def profile_functions(way: Callable[[], Any], most: int = 8) -> str:
    """As `profile`, by Python's functions: for a way that has little to do with torch."""
    seen = cProfile.Profile()
    seen.runcall(way)
    seen.create_stats()
    spent = sorted(((own, calls, place) for place, (_, calls, own, *_) in seen.stats.items()), reverse=True)
    total = sum(own for own, *_ in spent)
    rows = [["function", "calls", "of the time"]]
    for own, calls, (file, _, name) in spent[:most]:
        rows.append([f"`{Path(file).stem}: {name}`", str(calls), f"{100 * own / total:.1f} %"])
    return table(rows)


def explained(
    goals: Sequence[str], what: str, way: Callable[[], Any], profiler: Callable[[Callable], str] = profile
) -> list[str]:
    """The goals' lines; where one is missed, a profile of the way behind them: explained(lines, "encoding", way)."""
    if not any(line.endswith("missed.") for line in goals):
        return list(goals)
    return [*goals, f"Where the time of {what} goes, by a profiler:", profiler(way)]


def goal(said: str, value: float, limit: float, least: bool) -> str:
    """A goal, and whether it was met: "Kit / floor: goal at most 1.1, measured 1.05, met."."""
    met = "met" if (value >= limit if least else value <= limit) else "missed"
    return f"{said}: goal {'at least' if least else 'at most'} {limit:g}, measured {value:.3g}, {met}."


def read(path: Path) -> dict[str, Any]:
    """The values beside a page. Raises ValueError where the benchmark has not run."""
    if not path.is_file():
        raise ValueError(f"{path} is not there: run python -m experiments.benchmarks.{path.stem} first")
    return json.loads(path.read_text())
