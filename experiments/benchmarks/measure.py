"""Timing, memory and machine of a benchmark, and the page that it writes."""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vladva_kit import Embedder
from vladva_kit.evaluation.tables import markdown_rows
from vladva_kit.models.files import atomic_write, write_json
from vladva_kit.training.collator import Batch
from vladva_kit.training.encode import count_target_tokens

RESULTS = Path(__file__).parent / "results"
STAT = Path("/proc/stat")
IDLE = 0.05  # the machine is called idle if other processes used at most this share of the processors' time
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SECONDS = "seconds: median (min–max)"  # heading of a column of `median_and_range`


def time_interleaved(
    methods: Mapping[str, Callable[[], Any]], runs: int = 5, warmed_up: bool = False
) -> dict[str, list[float]]:
    """Time each method `runs` times, interleaved, so that a slow moment affects all of them.

        time_interleaved({"kit": lambda: encode(), "plain": lambda: plain()}, runs=5)["kit"]    # 5 times, in seconds

    Runs each method once before, unless `warmed_up`. Raises ValueError for less than one run.
    """
    if runs < 1:
        raise ValueError(f"{runs} runs: give at least 1, and 5 for published numbers")
    for method in () if warmed_up else methods.values():
        method()
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(runs):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_and_range(values: Sequence[float]) -> str:
    """Format values by their median and range: "1.2 (1.1–1.5)"."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def median_ratio(seconds: Mapping[str, Sequence[float]], name: str, reference: str) -> float:
    """Return the median of a method's times over a reference's, each ratio from one interleaved run.

    median_ratio(seconds, "plain recipe", "kit")
    """
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[reference], strict=True))


def run_in_process(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """Call a function in a new process and return its result, or {"error": message} if the process fails.

    run_in_process("experiments.benchmarks.step", "peak_memory_of", method="kit", shape="tiny", batch=8)
    """
    encoded = json.dumps(json.dumps(arguments))
    code = f"import json, {module} as m; print(json.dumps(m.{function}(**json.loads({encoded}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        return {"error": f"killed by signal {-done.returncode}"}
    return {"error": done.stderr.strip().splitlines()[-1][:200]}


def count_tokens(embedder: Embedder, batch: Batch) -> tuple[int, int, int]:
    """Count a batch's tokens, target tokens and image tokens: `tokens, targets, image_tokens = count_tokens(…)`."""
    tokens = sum(int(inputs.inputs["attention_mask"].sum()) for inputs in (batch.images, batch.texts))
    image_tokens = int((batch.images.inputs["input_ids"] == embedder.lvlm.model.config.image_token_id).sum())
    return tokens, count_target_tokens(batch.images, embedder.device), image_tokens


def count_flops(model: torch.nn.Module, tokens: int, targets: int, image_tokens: int, forwards: int = 1) -> float:
    """Count the floating-point operations of a training step in matrix products, without attention scores.

        count_flops(embedder.lvlm.model, tokens=10_000, targets=4_000, image_tokens=16_384)

    Per weight and token: 2 in the forward and 2 in the backward pass, since the LLM is frozen and only states need
    gradients. `targets` pass the LM head, too; `image_tokens` pass the frozen vision encoder, forward only and once.
    forwards: 2 with cached gradients, which embed every row twice; 0 for encoding, without a backward pass.
    """
    decoder, encoder = model.get_decoder(), model.model.vision_tower
    layers = sum(w.numel() for name, w in decoder.layers.named_parameters() if w.dim() == 2 and ".lora_" not in name)
    vision = sum(w.numel() for w in encoder.parameters() if w.dim() == 2)
    head = model.lm_head.weight.numel()
    return 2 * (forwards + 1) * layers * tokens + 4 * head * targets + 2 * vision * image_tokens


def peak_memory(device: str) -> float:
    """Return the peak memory in GB since `reset_peak_memory`: the allocator's on a GPU, the process's on a CPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e9
    if STATUS.is_file():  # Linux, where the peak can be reset
        return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def reset_peak_memory(device: str) -> None:
    """Reset `peak_memory` to the current memory, to exclude preparations."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR_REFS.exists():
        ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system
        CLEAR_REFS.write_text("5")


def return_freed_memory() -> None:
    """Return freed blocks to the system at once, so that a CPU's peak excludes fragmentation, as a GPU's does.

    Slows the process down: do not use it where time is measured.
    """
    if CLEAR_REFS.exists() and hasattr(glibc := ctypes.CDLL(None), "mallopt"):
        glibc.mallopt(-3, 2**17)  # M_MMAP_THRESHOLD, which otherwise grows with the freed blocks


def parse_arguments(about: str, **defaults: Any) -> argparse.Namespace:
    """Parse a benchmark's options, one per keyword with its default: `parse_arguments(__doc__, batch=64).batch`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--runs", type=int, default=5, help="timed runs; reported is their median")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the page")
    for name, default in defaults.items():
        several = isinstance(default, list)
        kind = type(default[0] if several else default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, nargs="+" if several else None)
    return parser.parse_args()


def describe_machine() -> str:
    """Describe the processor or GPU, threads, memory and library versions."""
    processor = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = [f"Python {platform.python_version()}"]
    for name in ("torch", "transformers", "peft", "sentence-transformers"):
        if importlib.util.find_spec(name.replace("-", "_")):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{processor}, {torch.get_num_threads()} threads, {memory:.0f} GB, {', '.join(versions)}"


def _processor() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Load:
    """The load averages of the last minute at the start and the end, and the share of CPU time of other processes."""

    start: float
    end: float
    others: float | None  # None where it cannot be measured

    @property
    def idle(self) -> bool:
        """Whether the machine was idle apart from the benchmark."""
        return self.others is not None and self.others <= IDLE

    def __str__(self) -> str:
        others = "the time of other processes is unknown"
        if self.others is not None:
            state = "idle" if self.idle else "not idle"
            others = (
                f"other processes used {100 * self.others:.0f} % of the processors' time, so the machine was {state}"
            )
        return f"Load average: {self.start:.1f} at the start, {self.end:.1f} at the end; {others}."


def _moment() -> tuple[float, float, float, float]:
    """Return the load average, and seconds: on the clock, of all processors' work, and of this process's work."""
    busy = math.nan
    if STAT.is_file():  # Linux: user, nice, system, idle, iowait, irq, softirq, steal
        ticks = [int(value) for value in STAT.read_text().splitlines()[0].split()[1:9]]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return os.getloadavg()[0], time.perf_counter(), busy, sum(os.times()[:4])


START = _moment()


def machine_load() -> Load:
    """Measure the load since this module was imported: `str(machine_load())` is a sentence for a page."""
    begin, end = START, _moment()
    clock, busy, own = (after - before for before, after in zip(begin[1:], end[1:], strict=True))
    others = (busy - own) / (clock * (os.cpu_count() or 1))
    return Load(begin[0], end[0], None if math.isnan(others) else max(0.0, others))


def load_text(values: Mapping[str, Any]) -> str:
    """State the load that a benchmark's JSON file records: `load_text(read_values(RESULTS / "step.json"))`.

    Older files hold the load average at the start only, from which nothing follows about other processes.
    """
    load = values["load"]
    if isinstance(load, Mapping):
        return str(Load(*(load[name] for name in ("start", "end", "others"))))
    return f"Load average at the start: {load:.1f}; whether the machine was idle was not recorded."


def commit() -> str:
    """Return the commit of the code that is measured, and whether files differ from it; "unknown" without git."""

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = bool(git("status", "--porcelain", "--untracked-files=no", "--", ":/*.py"))
        return git("rev-parse", "HEAD")[:12] + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is the heading."""
    heading, *rest = rows
    return markdown_rows(heading, rest, "l" * len(heading)).removesuffix("\n")


def write_page(out: Path, name: str, about: str, parts: Sequence[str], values: Mapping[str, Any]) -> None:
    """Write OUT/name.md from a benchmark's docstring and parts, and its values to OUT/name.json; print the page."""
    command = " ".join(["python -m", f"experiments.benchmarks.{name}", *sys.argv[1:]])
    title, *more = about.strip().split("\n\n")
    load, code = machine_load(), commit()
    measured = f"Measured at commit {code} on {describe_machine()}. {load}"
    text = "\n\n".join([f"# {title}", f"`{command}`", measured, *more, *parts])
    atomic_write({out / f"{name}.md": f"{text}\n".encode()})
    load_values = {**asdict(load), "idle": load.idle}
    made = {"command": command, "commit": code, "machine": describe_machine(), "load": load_values}
    write_json(out / f"{name}.json", made | dict(values))
    print(text)


def read_values(path: Path) -> dict[str, Any]:
    """Read a benchmark's JSON file. Raises ValueError if the benchmark was not run."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: run python -m experiments.benchmarks.{path.stem} first")
    return json.loads(path.read_text())


def profile_operations(function: Callable[[], Any], n: int = 8) -> str:
    """Profile one call: a Markdown table of the n torch operations that take the most time."""
    on_gpu = torch.cuda.is_available()
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * on_gpu
    with torch.profiler.profile(activities=kinds) as profile:
        function()
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent = sorted(((getattr(event, attribute), event) for event in profile.key_averages()), key=lambda one: -one[0])
    total = sum(time for time, _ in spent)
    rows = [[f"`{event.key}`", str(event.count), f"{100 * time / total:.1f} %"] for time, event in spent[:n]]
    return table([["operation", "calls", "share of time"], *rows])


def target(name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """State whether a target was met: "Kit / floor: measured 1.05, target at most 1.1, target met."."""
    met = value >= at_least if at_most is None else value <= at_most
    bound = f"at least {at_least:g}" if at_most is None else f"at most {at_most:g}"
    return f"{name}: measured {value:.3g}, target {bound}, target {'met' if met else 'missed'}."


def find_targets(text: str) -> list[tuple[str, str, str, str]]:
    """Return (name, measured, bound, result) of all targets on a page: `find_targets(page)[0][3]` -> "target met"."""
    pattern = r"^(.+): measured (\S+), target (at (?:least|most) \S+), (target (?:met|missed))\.$"
    return re.findall(pattern, text, re.MULTILINE)


def with_profile(targets: Sequence[str], title: str, function: Callable[[], Any]) -> list[str]:
    """Add a profile to the targets if one is missed: `with_profile(targets, "encoding", encode)`."""
    if not any(line.endswith("missed.") for line in targets):
        return list(targets)
    return [*targets, f"Profile of {title}:", profile_operations(function)]
