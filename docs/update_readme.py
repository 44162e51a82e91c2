"""Writes the demo's table into the README: python docs/update_readme.py runs/demo/results.json"""

import json
import sys
from pathlib import Path

from vladva_kit.files import write_whole
from vladva_kit.report import markdown_table

BEGIN, END = "<!-- demo table -->\n", "<!-- end of demo table -->\n"


def main(results: Path, readme: Path) -> None:
    """Replaces what stands between the two marks by the table of these results."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    table = markdown_table(json.loads(results.read_text()))
    write_whole({readme: (before + BEGIN + "\n" + table + "\n" + END + after).encode()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent.parent / "README.md")
