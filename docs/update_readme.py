"""Writes a table into the README: python docs/update_readme.py runs/demo/results.json (or docs/ablation.json)"""

import json
import sys
from pathlib import Path

from vladva_kit.ablation import markdown_table as ablation_table
from vladva_kit.files import write_whole
from vladva_kit.report import markdown_table


def main(path: Path, readme: Path) -> None:
    """Replaces what stands between the two marks, the demo's or the ablation's, by the table of these results."""
    results = json.loads(path.read_text())
    name, table = (
        ("ablation", ablation_table(results, "components")) if "experiments" in results
        else ("demo", markdown_table(results))
    )  # fmt: skip
    begin, end = f"<!-- {name} table -->\n", f"<!-- end of {name} table -->\n"
    before, found, rest = readme.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{readme} has no marks '{begin.strip()}' and '{end.strip()}': put them where the table goes")
    write_whole({readme: (before + begin + "\n" + table + "\n" + end + after).encode()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent.parent / "README.md")
