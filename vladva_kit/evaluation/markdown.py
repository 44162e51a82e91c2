"""Tables in Markdown, the README's and the pages'."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """A Markdown table, a line each for heading, rule and rows: table(["model", "R@1"], [["base", "9.0"]], "lr").

    align: "l" or "r" a column. A cell's | and line breaks would end it: the first is escaped, the second a space.
    Raises ValueError for a row of another length.
    """
    whole = [heading, *rows]
    for place, row in enumerate(whole):
        if len(row) != len(align):
            raise ValueError(f"row {place} has {len(row)} cells, not {len(align)}: {list(row)}")
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in whole]
    cells.insert(1, ["---:" if side == "r" else "---" for side in align])
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)
