"""Start time of `import vladva_kit` and `vladva --help`, next to that of Python itself."""

from __future__ import annotations

import statistics
import subprocess
import sys

from experiments.benchmarks import measure


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(__doc__)
    processes = {
        "python": ("-c", "pass"),
        "import vladva_kit": ("-c", "import vladva_kit"),
        "vladva --help": ("-m", "vladva_kit", "--help"),
    }

    def run(command: tuple[str, ...]):
        return lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True)

    seconds = measure.time_interleaved({name: run(command) for name, command in processes.items()}, args.runs)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [["process", measure.SECONDS], *[[name, measure.median_and_range(times)] for name, times in seconds.items()]]
    imported = medians["import vladva_kit"] - medians["python"]
    parts = [
        measure.table(rows),
        measure.target("import vladva_kit, minus Python's own start", imported, at_most=0.3),
        measure.target("vladva --help, in total", medians["vladva --help"], at_most=0.6),
    ]
    measure.write_page(args.out, "start", __doc__, parts, {"seconds": seconds})


if __name__ == "__main__":
    main()
