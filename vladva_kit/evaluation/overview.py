"""Summarize a run in one small table, a model per row, and in counts of cases that one model fixes and breaks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from vladva_kit.evaluation.cases import Result
from vladva_kit.evaluation.tables import MISSING, terminal_table

# column -> benchmark, and where its score is within the benchmark's result
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Winoground group": ("winoground", ("group",)),
    "text → image R@1": ("retrieval", ("text_to_image", "R@1")),
    "image → text R@1": ("retrieval", ("image_to_text", "R@1")),
    "SugarCrepe macro": ("sugarcrepe", ("macro",)),
    "questions right": ("generation", ("question_accuracy",)),
    "captions true": ("generation", ("caption_truth",)),
}
STYLES = ("unseen style", "seen")


def overview(results: Mapping[str, Any], style: str) -> dict[str, dict[str, str]]:
    """Return the headline scores of each model in percent, for one style.

    overview(results, "seen")["base"]["Winoground group"]    # "13.9"

    results: the content of results.json. A score that a model does not have is "—".
    """
    return {
        model: {column: _percent(benchmarks.get(f"{name}/{style}"), path) for column, (name, path) in COLUMNS.items()}
        for model, benchmarks in results["models"].items()
    }


def _percent(score: Any, path: tuple[str, ...], field: str = "percent") -> str:
    for key in path:
        score = score.get(key) if score else None
    value = score.get(field) if score else None
    return MISSING if value is None else f"{value:.1f}"


def _chance(results: Mapping[str, Any], benchmark: str, path: tuple[str, ...]) -> str:
    texts = (_percent(benchmarks.get(benchmark), path, "chance") for benchmarks in results["models"].values())
    return next((text for text in texts if text != MISSING), MISSING)


def overview_table(results: Mapping[str, Any]) -> Table:
    """Build the terminal table of headline scores, a model per row: `rich.print(overview_table(results))`."""
    headings = tuple(re.sub(r" (?=image|text R|group|macro|right|true)", "\n", column) for column in COLUMNS)
    table = terminal_table(headings, "percent")
    for style in STYLES:
        table.add_section()
        table.add_row(Text(style, style="bold cyan"))
        for model, cells in overview(results, style).items():
            table.add_row(model, *cells.values())
        table.add_row("chance", *(_chance(results, f"{name}/{style}", path) for name, path in COLUMNS.values()))
    return table


def count_changes(before: Result, after: Result, score: str) -> tuple[int, int]:
    """Count the cases of a score that are wrong before and right after, and the reverse: (fixed, broken).

        count_changes(base, tuned, "group")    # (141, 1)

    Raises ValueError if the two results are of different data.
    """
    if before.data != after.data:
        raise ValueError("the two results are of different data: evaluate both models on the same cases")
    first, second = ({c.key: c.correct for c in each.per_case() if c.score == score} for each in (before, after))
    fixed = sum(bool(second[key]) and not right for key, right in first.items())
    return fixed, sum(bool(right) and not second[key] for key, right in first.items())
