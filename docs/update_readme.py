"""Write a generated table into the README: python docs/update_readme.py runs/demo/results.json

The argument is the results of the demo, docs/ablation.json (the study) or experiments/benchmarks/results (the targets
of the benchmarks).
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `experiments` is not installed

from experiments.benchmarks.measure import find_targets  # noqa: E402
from experiments.paper.tables import overview  # noqa: E402
from vladva_kit.evaluation.tables import markdown_rows, markdown_table  # noqa: E402
from vladva_kit.models.files import atomic_write  # noqa: E402

TITLES = {"seen": "In the styles of the training data:", "unseen style": "In the style that is held out of training:"}


def main(path: Path, readme: Path) -> None:
    """Replace the text between the two markers of the demo, the study or the benchmarks with their table.

    main(Path("docs/ablation.json"), Path("README.md"))

    Raises ValueError if the README lacks the markers.
    """
    name, table = _table(path)
    begin, end = f"<!-- {name} table -->\n", f"<!-- end of {name} table -->\n"
    before, opened, rest = readme.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{readme} lacks the markers '{begin.strip()}' and '{end.strip()}': add them around the table")
    atomic_write({readme: (before + begin + "\n" + table + "\n" + end + after).encode()})


def _table(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return "benchmarks", targets_table(path)
    results = json.loads(path.read_text())
    return ("ablation", _study_tables(results)) if "experiments" in results else ("demo", markdown_table(results))


def targets_table(folder: Path) -> str:
    """Return a table of all targets on the benchmarks' pages, with the measured values."""
    rows = [
        [f"[{page.stem}](experiments/benchmarks/results/{page.name})", name, bound, measured, result]
        for page in sorted(folder.glob("*.md"))
        for name, measured, bound, result in find_targets(page.read_text())
    ]
    return markdown_rows(["benchmark", "measurement", "target", "measured", "result"], rows, "lllrl")


def _study_tables(results: dict[str, Any]) -> str:
    parts = [f"{title}\n\n{overview(results, 'components', style)}" for style, title in TITLES.items()]
    n_seeds = len(results["plan"]["seeds"])
    return (
        "\n".join([*parts, f"Percent, mean ± standard deviation over {n_seeds} seeds. `{results['command']}`"]) + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), ROOT / "README.md")
