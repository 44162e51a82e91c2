"""How long `import vladva_kit` and `vladva --help` take, over what Python itself takes to start."""

from __future__ import annotations

import subprocess
import sys

from experiments.benchmarks.measure import arguments, explained, goal, median, page, spread, table, turns


def imports(*command: str, most: int = 8) -> str:
    """The modules whose own code takes longest when it is imported, as a Markdown table."""
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    told = [line.split("|") for line in lines[1:]]  # behind the heading
    spent = sorted(((int(own.split(":")[1]), name.strip()) for own, _, name in told), reverse=True)
    return table([["module", "ms"], *[[f"`{name}`", f"{own / 1000:.0f}"] for own, name in spent[:most]]])


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(__doc__)

    def run(*command: str):
        return lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True)

    seconds = turns(
        {
            "python": run("-c", "pass"),
            "import vladva_kit": run("-c", "import vladva_kit"),
            "vladva --help": run("-m", "vladva_kit", "--help"),
        },
        chosen.runs,
    )
    bare = median(seconds["python"])
    imported = median(seconds["import vladva_kit"]) - bare
    rows = [["process", "seconds: median (least–largest)"], *[[name, spread(own)] for name, own in seconds.items()]]
    met = [
        goal("import vladva_kit, less Python's own start", imported, 0.3, least=False),
        goal("vladva --help, whole", median(seconds["vladva --help"]), 0.6, least=False),
    ]
    shown = ("-m", "vladva_kit", "--help")
    told = explained(met, "vladva --help, module by module,", lambda: imports(*shown), lambda way: way())
    page(chosen.out, "start", __doc__, [table(rows), *told], {"seconds": seconds})


if __name__ == "__main__":
    main()
