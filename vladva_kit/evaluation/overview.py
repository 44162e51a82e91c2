"""Summarize a run in one small table, a model per row, and in counts of cases that one model fixes and breaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from vladva_kit.evaluation.cases import Result
from vladva_kit.evaluation.tables import MISSING, terminal_table

# column -> benchmark, and where its score is within the benchmark's result
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Winoground group": ("winoground", ("group",)),
    "text → image R@1": ("retrieval", ("text_to_image", "R@1")),
    "image → text R@1": ("retrieval", ("image_to_text", "R@1")),
    "SugarCrepe macro": ("sugarcrepe", ("macro",)),
    "questions": ("generation", ("question_accuracy",)),
    "true captions": ("generation", ("caption_truth",)),
}
STYLES = ("seen", "unseen style")


def overview(results: Mapping[str, Any], styles: tuple[str, ...] = STYLES) -> dict[str, dict[str, str]]:
    """Return the headline scores of each model in percent, one text per column.

    overview(results)["base"]["Winoground group"]    # "13.9 / 6.7": in the seen styles and in the unseen one

    results: the content of results.json. A score that a model does not have is "—".
    """
    return {
        model: {
            column: " / ".join(dict.fromkeys(_percent(by_benchmark, name, style, path) for style in styles))
            for column, (name, path) in COLUMNS.items()
        }
        for model, by_benchmark in results["models"].items()
    }


def _percent(by_benchmark: Mapping[str, Any], name: str, style: str, path: tuple[str, ...]) -> str:
    score: Any = by_benchmark.get(f"{name}/{style}")
    for key in path:
        score = score.get(key) if score else None
    return f"{score['percent']:.1f}" if score else MISSING


def overview_table(results: Mapping[str, Any]) -> Table:
    """Build the terminal table of models and headline scores: `rich.print(overview_table(results))`."""
    table = terminal_table(tuple(COLUMNS), "percent, seen styles / unseen style")
    for model, cells in overview(results).items():
        table.add_row(model, *cells.values())
    return table


def count_changes(before: Result, after: Result, score: str) -> tuple[int, int]:
    """Count the cases of a score that are wrong before and right after, and the reverse: (fixed, broken).

        count_changes(base, tuned, "group")    # (141, 1)

    Raises ValueError if the two results are of different data.
    """
    if before.data != after.data:
        raise ValueError("the two results are of different data: evaluate both models on the same cases")
    first, second = ({c.key: c.correct for c in each.per_case() if c.score == score} for each in (before, after))
    fixed = sum(second[key] and not right for key, right in first.items())
    return fixed, sum(right and not second[key] for key, right in first.items())
