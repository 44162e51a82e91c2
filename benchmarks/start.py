"""How long `import vladva_kit` and `vladva --help` take, over what Python itself takes to start."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import arguments, goal, median, page, spread, table, turns


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
    page(chosen.out, "start", __doc__, [
        table(rows),
        goal("import vladva_kit, less Python's own start", imported, 0.3, least=False),
        goal("vladva --help, whole", median(seconds["vladva --help"]), 0.6, least=False),
    ], {"seconds": seconds})  # fmt: skip


if __name__ == "__main__":
    main()
