"""Run all benchmarks in turn, or those named: python -m experiments.benchmarks step scaling.

Published numbers need a machine without other load. If one benchmark fails, the others still run, and the command
exits with 1. `--tiny` only checks that they run; its pages go to a temporary folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

# by duration on 2 cores, shortest first; scaling reads the results of step
ALL = (
    "start",
    "images",
    "recall",
    "encode",
    "likelihood",
    "int8",
    "prefix",
    "loader",
    "cost",
    "memory",
    "step",
    "throughput",
    "scaling",
)
TINY = {
    "start": "--runs 1",
    "images": "--images 2 --sides 32 48 --runs 1",
    "recall": "--images 600 --captions 2 --dim 16 --runs 1",
    "encode": "--shape tiny --pairs 4 --batch 2 --runs 1",
    "likelihood": "--shape tiny --images 2 --captions 4 --image-side 64 --runs 1",
    "int8": "--shape tiny --pairs 4 --batch 2 --queries 5 --runs 1",
    "prefix": "--shape tiny --pairs 4 --batch 2 --prefixes 2 14 --runs 1",
    "loader": "--pairs 640 --batch 32 --window 64 --samples 4",
    "cost": "--shape tiny --batches 2 4 6 --caption-tokens 30 60 90 --image-sides 32 64 96 --batch 2 --rows 2 --runs 1",
    "memory": "--shape tiny --batches 4 8 --rows 2",
    "step": "--shape tiny --batch 4 --rows 2 --runs 1 --baseline-batch 4 --peak-tflops 1",
    "throughput": "--shape tiny --batch 2 --runs 1 --tasks train --peak-tflops 1",
    "scaling": "",
}


def commands(names: list[str], tiny_out: str | None = None) -> dict[str, list[str]]:
    """Return each benchmark's command line: with its defaults or, given a folder, with tiny settings."""
    lines = {}
    for name in names:
        options = [] if tiny_out is None else [*TINY[name].split(), "--out", tiny_out]
        if tiny_out is not None and name == "scaling":
            options += ["--results", tiny_out, "--out-file", f"{tiny_out}/scaling.md"]
        lines[name] = [sys.executable, "-m", f"experiments.benchmarks.{name}", *options]
    return lines


def run_all(lines: dict[str, list[str]]) -> list[str]:
    """Run the commands in turn, print how long each took, and return the names of those that failed."""
    failed = []
    for name, line in lines.items():
        start = time.perf_counter()
        code = subprocess.run(line).returncode
        outcome = "done" if code == 0 else f"FAILED with {code}"
        print(f"\n{name}: {outcome} after {(time.perf_counter() - start) / 60:.1f} minutes\n", flush=True)
        failed += [name] * (code != 0)
    return failed


def main() -> None:
    """Run all benchmarks, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"benchmarks, default all: {', '.join(ALL)}")
    parser.add_argument("--tiny", action="store_true", help="only check that they run")
    args = parser.parse_args()
    if unknown := set(args.names) - set(ALL):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; choose from {', '.join(ALL)}")
    names = [name for name in ALL if name in (args.names or ALL)]
    with tempfile.TemporaryDirectory() as folder:
        failed = run_all(commands(names, folder if args.tiny else None))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
