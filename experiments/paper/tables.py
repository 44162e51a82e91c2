"""Results as tables in Markdown: rows of an experiment over columns, and which neighbors differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.paper.statistics import Difference, Estimate, difference, estimate
from vladva_kit.evaluation import markdown
from vladva_kit.evaluation.sugarcrepe import CATEGORIES

MISSING = "—"
STYLES = ("seen", "unseen style")


@dataclass(frozen=True)
class Column:
    """A column: its name, and the measures that it is the mean of."""

    name: str
    measures: tuple[str, ...]


def _benchmarks(style: str) -> list[Column]:
    kinds = {
        kind: tuple(f"sugarcrepe/{style}/{name}" for name in CATEGORIES if name.startswith(kind))
        for kind in ("replace", "swap", "add")
    }
    return [
        Column(f"image → text R@1, {style}", (f"retrieval/{style}/image_to_text",)),
        Column(f"text → image R@1, {style}", (f"retrieval/{style}/text_to_image",)),
        *(Column(f"SugarCrepe {kind}, {style}", measures) for kind, measures in kinds.items()),
        *(
            Column(f"Winoground {part}, {style}", (f"winoground/{style}/{part}",))
            for part in ("text", "image", "group")
        ),
    ]


def _talk(style: str) -> list[Column]:
    names = {"questions": "question accuracy", "caption_truth": "caption truth", "second_turn": "second turn"}
    return [
        Column(
            f"{said}, adapter {state}, {style}",
            (f"generation{', adapter off' if state == 'off' else ''}/{style}/{name}",),
        )
        for name, said in names.items()
        for state in ("on", "off")
    ]


COLUMNS = {column.name: column for style in STYLES for column in (*_benchmarks(style), *_talk(style))}


def cells_of(results: Mapping[str, Any], experiment: str, row: str) -> list[Mapping[str, Any]]:
    """The records of a row's cells, one a seed: `cells_of(results, "components", "base")[0]["measures"]`.

    Raises KeyError for an experiment or a row that the results lack.
    """
    rows = {one["name"]: one["cells"] for one in results["experiments"][experiment]["rows"]}
    return [results["cells"][name] for name in rows[row]]


def figure_of(results: Mapping[str, Any], experiment: str, row: str, column: str) -> Estimate | None:
    """One figure of a table: `figure_of(results, "components", "base", "Winoground group, seen").mean`.

    With the adapter off a model that was not asked again has the base's figure, where its probe was bit-equal to it.
    None where it was not measured.
    """
    found = _measured(results, experiment, row, column)
    return estimate(*found) if found else None


def _measured(
    results: Mapping[str, Any], experiment: str, row: str, column: str
) -> tuple[list[Mapping[str, Any]], tuple[str, ...]] | None:
    """The records and the measures that a figure is made of, or None."""
    cells, measures = cells_of(results, experiment, row), COLUMNS[column].measures
    if not _have(cells, measures) and ", adapter off" in column:
        measures = tuple(name.replace(", adapter off", "") for name in measures)
        if not _have(cells, measures):
            return None  # it was not asked at all
        if all(cell.get("adapter_off_equal") for cell in cells):
            cells = _untouched(results)
        elif any(cell["cell"]["seed"] is not None for cell in cells):
            return None  # an untrained one has no adapter to take off
    return (cells, measures) if _have(cells, measures) else None


def _have(cells: list[Mapping[str, Any]], measures: tuple[str, ...]) -> bool:
    return bool(cells) and all(name in cell["measures"] for cell in cells for name in measures)


def _untouched(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The base's record, if it is among the results."""
    return [
        cell
        for cell in results["cells"].values()
        if cell["cell"]["model"] == "emoji-llava" and cell["cell"]["seed"] is None
    ][:1]


def compared(results: Mapping[str, Any], experiment: str, first: str, second: str, column: str) -> Difference | None:
    """What row `second` has over row `first` in a column, paired by case; None where one was not measured."""
    rows = (cells_of(results, experiment, row) for row in (first, second))
    return difference(*rows, COLUMNS[column].measures)


def measured_columns(results: Mapping[str, Any], experiment: str) -> list[str]:
    """The columns that any row of the experiment has a figure in."""
    rows = [row["name"] for row in results["experiments"][experiment]["rows"]]
    return [name for name in COLUMNS if any(_measured(results, experiment, row, name) for row in rows)]


def markdown_table(results: Mapping[str, Any], experiment: str) -> str:
    """An experiment as a Markdown table, a line a column of COLUMNS, a column a row of the experiment.

        print(markdown_table(results, "components"))

    A figure is the mean over the seeds ± their standard deviation, with a 95 % bootstrap interval over the cases.
    Raises KeyError for an experiment that the results lack.
    """
    rows = [row["name"] for row in results["experiments"][experiment]["rows"]]
    lines = []
    for column in measured_columns(results, experiment):
        found = [figure_of(results, experiment, row, column) for row in rows]
        there = next(one for one in found if one is not None)
        cells = [MISSING if one is None else str(one) for one in found]
        lines.append([column, *cells, f"{there.chance:.1f}", f"{there.n:,}"])
    return markdown.table(["", *rows, "guessing", "n"], lines, "l" + "r" * (len(rows) + 2))


def overview(results: Mapping[str, Any], experiment: str, style: str) -> str:
    """One style's figures as a Markdown table, a line a row of the experiment: mean ± standard deviation, no intervals.

        print(overview(results, "components", "seen"))

    What is the same in all lines by construction, talk with the adapter off, is left out, and the second turn.
    """
    skipped = (", adapter off", "second turn")
    columns = [
        name
        for name in measured_columns(results, experiment)
        if name.endswith(f", {style}") and not any(part in name for part in skipped)
    ]
    titles = [name.removesuffix(f", {style}").removesuffix(", adapter on") for name in columns]
    rows = [row["name"] for row in results["experiments"][experiment]["rows"]]
    found = {row: [figure_of(results, experiment, row, column) for column in columns] for row in rows}
    lines = [[row, *(MISSING if one is None else one.short for one in figures)] for row, figures in found.items()]
    guessing = [next(one.chance for one in same if one) for same in zip(*found.values(), strict=True)]
    lines.append(["guessing", *(f"{chance:.1f}" for chance in guessing)])
    return markdown.table(["", *titles], lines, "l" + "r" * len(columns))


def comparison_lines(results: Mapping[str, Any], experiment: str) -> str:
    """Which rows differ, as a Markdown table: the gain in points with its paired interval, McNemar's p of each seed.

    "above" and "below" are said where the interval leaves out 0. Raises KeyError as `markdown_table` does.
    """
    lines = []
    for first, second in results["experiments"][experiment]["compared"]:
        for column in measured_columns(results, experiment):
            found = compared(results, experiment, first, second, column)
            if found is not None:
                p_values = ", ".join(f"{value:.2g}" for value in found.p_values)
                lines.append([f"{first} → {second}", column, str(found), found.outcome, p_values])
    return markdown.table(["rows", "column", "gain [95 %]", "", "McNemar's p, by seed"], lines, "llrll")
