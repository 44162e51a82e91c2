"""Writes a table into the README: python docs/update_readme.py runs/demo/results.json (or docs/ablation.json)"""

import json
import sys
from pathlib import Path
from typing import Any

from vladva_kit.ablation import overview
from vladva_kit.files import write_whole
from vladva_kit.report import markdown_table

TITLES = {"seen": "The style that it was trained in:", "unseen style": "A style that it has never seen:"}


def main(path: Path, readme: Path) -> None:
    """Replaces what stands between the two marks, the demo's or the ablation's, by the table of these results."""
    results = json.loads(path.read_text())
    name, table = ("ablation", _ablation(results)) if "experiments" in results else ("demo", markdown_table(results))
    begin, end = f"<!-- {name} table -->\n", f"<!-- end of {name} table -->\n"
    before, found, rest = readme.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{readme} has no marks '{begin.strip()}' and '{end.strip()}': put them where the table goes")
    write_whole({readme: (before + begin + "\n" + table + "\n" + end + after).encode()})


def _ablation(results: dict[str, Any]) -> str:
    parts = [f"{title}\n\n{overview(results, 'components', style)}" for style, title in TITLES.items()]
    made = f"`{results['command']}`: mean ± standard deviation over {len(results['plan']['seeds'])} seeds, in percent."
    return "\n".join([*parts, made]) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent.parent / "README.md")
