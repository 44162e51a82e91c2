"""All benchmarks, one after the other, each with its page: python -m experiments.benchmarks, or make benchmarks.

For figures that are kept, on a machine that does nothing else. One that fails does not keep the others from running;
the command then ends with 1. `--tiny` only tries whether they run: its pages go elsewhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

# by what they take on 2 cores, the shortest first; scaling reads what step has measured
ALL = ("start", "recall", "encode", "loader", "cost", "memory", "step", "throughput", "scaling")
TINY = {
    "start": "--runs 1",
    "recall": "--images 600 --captions 2 --dim 16 --runs 1",
    "encode": "--shape tiny --pairs 4 --batch 2 --runs 1",
    "loader": "--pairs 640 --batch 32 --window 64 --stops 4",
    "cost": "--shape tiny --batches 2 4 6 --words 30 60 90 --sides 32 64 96 --batch 2 --rows 2 --runs 1",
    "memory": "--shape tiny --batches 4 8 --rows 2",
    "step": "--shape tiny --batch 4 --rows 2 --runs 1 --peer-batch 4 --peak-tflops 1",
    "throughput": "--shape tiny --batch 2 --runs 1 --works train --peak-tflops 1",
    "scaling": "",
}


def commands(names: list[str], out: str | None = None) -> dict[str, list[str]]:
    """Each benchmark's command line: as for figures that are kept, or the tiny one, with its page in `out`."""
    found = {}
    for name in names:
        options = [] if out is None else [*TINY[name].split(), "--out", out]
        if out is not None and name == "scaling":
            options += ["--results", out, "--out-file", f"{out}/scaling.md"]
        found[name] = [sys.executable, "-m", f"experiments.benchmarks.{name}", *options]
    return found


def run_all(lines: dict[str, list[str]]) -> list[str]:
    """Runs them in turn, says how long each took, and returns those that failed."""
    failed = []
    for name, line in lines.items():
        begun = time.perf_counter()
        code = subprocess.run(line).returncode
        said = "done" if code == 0 else f"FAILED with {code}"
        print(f"\n{name}: {said} after {(time.perf_counter() - begun) / 60:.1f} minutes\n", flush=True)
        failed += [name] * (code != 0)
    return failed


def main() -> None:
    """Runs all, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"which; all without one: {', '.join(ALL)}")
    parser.add_argument("--tiny", action="store_true", help="only try whether they run")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(ALL):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    names = [name for name in ALL if name in (chosen.names or ALL)]
    if chosen.tiny:
        with tempfile.TemporaryDirectory() as out:
            failed = run_all(commands(names, out))
    else:
        failed = run_all(commands(names))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
