"""Writes a table into the README: python docs/update_readme.py runs/demo/results.json

Or docs/ablation.json, or experiments/benchmarks/results: the study's, and which goals the benchmarks met.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from experiments.paper import overview
from vladva_kit.cli.report import markdown_table
from vladva_kit.evaluation import markdown
from vladva_kit.models.files import atomic_write

TITLES = {"seen": "The style that it was trained in:", "unseen style": "A style that it has never seen:"}


def main(path: Path, readme: Path) -> None:
    """Replaces what stands between the two marks, those of the demo, the study or the benchmarks, by their table."""
    name, table = _named(path)
    begin, end = f"<!-- {name} table -->\n", f"<!-- end of {name} table -->\n"
    before, found, rest = readme.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{readme} has no marks '{begin.strip()}' and '{end.strip()}': put them where the table goes")
    atomic_write({readme: (before + begin + "\n" + table + "\n" + end + after).encode()})


def _named(path: Path) -> tuple[str, str]:
    if path.is_dir():
        return "benchmarks", goals(path)
    results = json.loads(path.read_text())
    return ("ablation", _ablation(results)) if "experiments" in results else ("demo", markdown_table(results))


def goals(folder: Path) -> str:
    """Every goal on the benchmarks' pages, with what was measured."""
    told = re.compile(r"^(.+): goal (at (?:least|most) \S+), measured (\S+), (met|missed)\.$", re.MULTILINE)
    rows = [
        [f"[{page.stem}](experiments/benchmarks/results/{page.name})", what, goal, measured, verdict]
        for page in sorted(folder.glob("*.md"))
        for what, goal, measured, verdict in told.findall(page.read_text())
    ]
    return markdown.table(["page", "", "goal", "measured", ""], rows, "lllrl")


def _ablation(results: dict[str, Any]) -> str:
    parts = [f"{title}\n\n{overview(results, 'components', style)}" for style, title in TITLES.items()]
    made = f"`{results['command']}`: mean ± standard deviation over {len(results['plan']['seeds'])} seeds, in percent."
    return "\n".join([*parts, made]) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent.parent / "README.md")
