"""One self-contained HTML page of a run: what was run, the models side by side, figures, failures, how to repeat it.

`results` is the plain dict that `tables` describes. The page loads nothing: pictures and styles are inside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from vladva_kit.evaluation.tables import (
    MISSING,
    comparison_table,
    figure_table,
    interval_text,
    markdown_table,
    meaning,
    score_rows,
)
from vladva_kit.models.files import atomic_write, write_json
from vladva_kit.plots.figures import decimals, model_comparison, verdict
from vladva_kit.plots.style import figure_uri, image_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from vladva_kit.evaluation import WinogroundResult

__all__ = ["Failure", "comparison_table", "markdown_table", "worst_failures", "write_json", "write_report"]


@dataclass(frozen=True)
class Failure:
    """A Winoground case for the page; `scores[model][i][c]` is that model's similarity of image i and caption c."""

    images: Sequence[Image.Image | Path | bytes] = field(repr=False)
    captions: Sequence[str]
    scores: Mapping[str, Any]
    tag: str = ""


def worst_failures(results: Mapping[str, WinogroundResult], of: str, k: int = 5) -> list[Failure]:
    """The cases that model `of` has most wrong, with all models' scores: `worst_failures(by_model, "fine-tuned")`.

    `results` has each model's WinogroundResult on the same cases. Fewer than `k` come back where fewer are wrong.
    Raises ValueError where `of` is not among the models, or one lacks a case.
    """
    if of not in results:
        raise ValueError(f"no results of {of!r}; there are those of {', '.join(results) or 'no model'}")
    grids = {model: {case.id: case.similarities for case in result.cases} for model, result in results.items()}
    wrong = [case for case in results[of].worst(k) if case.group_margin <= 0]
    for case in wrong:
        lacking = [model for model, grid in grids.items() if case.id not in grid]
        if lacking:
            raise ValueError(f"{', '.join(lacking)} has no case {case.id}; evaluate all models on the same cases")
    return [
        Failure(
            images=case.images,
            captions=case.captions,
            scores={model: grid[case.id] for model, grid in grids.items()},
            tag=case.tags.get("collapsed_tag", case.tags.get("tag", "")),
        )
        for case in wrong
    ]


def write_report(
    folder: str | Path, results: Mapping[str, Any], figures: Mapping[str, Figure], failures: Sequence[Failure]
) -> Path:
    """Write `report.html` whole or not at all: `write_report("runs/demo", results, {"Training": curve}, failures)`.

    `figures` are shown under their headings, in order; the comparison of the models is drawn from `results` and comes
    first. All texts are escaped. Returns the page's path. Raises ValueError for results without models.
    """
    path = Path(folder) / "report.html"
    rows = [row for row in score_rows(results) if row.level < 2]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vladva_kit.cli"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    headline = figure_table(results)
    page = environment.get_template("report.html.j2").render(
        command=results.get("command"),
        seed=results.get("seed"),
        facts={name: dict(_flat(results.get(name) or {})) for name in ("seconds", "versions")},
        models=list(results["models"]),
        sentences=meaning(results),
        comparison=figure_uri(model_comparison(headline, title="")) if headline else None,
        main=[_cells(row) for row in rows],
        everything=[_cells(row) for row in score_rows(results)],
        figures=[(heading, figure_uri(figure)) for heading, figure in figures.items()],
        failures=[_shown(failure) for failure in failures],
        has_json=(path.parent / "results.json").is_file(),
    )
    atomic_write({path: page.encode("utf-8")})
    return path


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of nested facts: {"train": {"steps": 1.25}} -> ("train steps", "1.2")."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{name} {key}".strip())
    else:
        yield name or "all", f"{values:,.1f}" if isinstance(values, float) else str(values)


def _cells(row: Any) -> dict[str, Any]:
    """A row as the template takes it: texts, and which cell is bold."""
    cells = []
    for model, score in row.scores.items():
        percent = MISSING if score is None else f"{score['percent']:.1f}"
        ties = (score or {}).get("ties") or 0
        note = f"{ties} {'tie' if ties == 1 else 'ties'}" if ties else ""
        interval = interval_text(score) if score else ""
        cells.append({"percent": percent, "interval": interval, "note": note, "wins": model == row.clear_winner})
    under = [f"guessing {chance:.1f}" for chance in row.of_any("chance")] + [f"n {n:,}" for n in row.of_any("n")]
    under += [f"{row.skipped} left out"] if row.skipped else []
    return {"section": row.section, "name": row.name, "under": " · ".join(dict.fromkeys(under)), "cells": cells}


def _shown(failure: Failure) -> dict[str, Any]:
    """A failure as the template takes it: pictures inside, numbers as texts, each model's verdict."""
    grids = []
    for model, grid in failure.scores.items():
        places = decimals(grid)
        # captions are rows and pictures columns, as the eye finds them on the page
        rows = [[f"{grid[i][c]:.{places}f}" for i in range(2)] for c in range(2)]
        grids.append({"model": model, "rows": rows, "verdict": verdict(grid)})
    pictures = [image_uri(image) for image in failure.images]
    return {"pictures": pictures, "captions": list(failure.captions), "grids": grids, "tag": failure.tag}
