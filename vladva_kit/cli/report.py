"""Write one self-contained HTML page about a run: scores of all models, figures, failures, settings and command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vladva_kit.evaluation import WinogroundResult
from vladva_kit.evaluation.tables import MISSING, figure_table, interval_text, score_rows, summary_sentences
from vladva_kit.models.files import atomic_write
from vladva_kit.plots import decimals_needed, model_comparison, winoground_correct
from vladva_kit.plots.style import figure_uri, image_uri
from vladva_kit.widgets.page import templates


def write_report(
    folder: str | Path,
    results: Mapping[str, Any],
    figures: Mapping[str, Figure],
    winoground: Mapping[str, WinogroundResult],
) -> Path:
    """Write `report.html` atomically and return its path.

        write_report("runs/demo", results, {"Training": plots.training_curve(history)}, {"base": base, "tuned": tuned})

    results: the content of results.json. figures: shown in order under their headings, after a comparison of the
    models drawn from `results`. winoground: each model's result on the same cases; the page shows the worst failures of
    the last model. Text is escaped; images and styles are embedded, so the page loads nothing.
    Raises ValueError for results without models.
    """
    path = Path(folder) / "report.html"
    template = templates("vladva_kit.cli").get_template("report.html.j2")
    comparison = model_comparison(figure_table(results), title="")
    names = {model.get("name") for model in results.get("identity", {}).values()}
    page = template.render(
        run=results, models=list(results["models"]), sentences=summary_sentences(results), rows=score_rows(results),
        interval_text=interval_text, missing=MISSING, comparison=figure_uri(comparison),
        figures={heading: figure_uri(figure) for heading, figure in figures.items()},
        failures=_worst_failures(winoground), of_emoji_llava="emoji-llava" in names,
    )  # fmt: skip
    atomic_write({path: page.encode("utf-8")})
    return path


def _worst_failures(results: Mapping[str, WinogroundResult], k: int = 5) -> list[dict[str, Any]]:
    """Prepare up to k cases that the last model gets most wrong, with the scores of all models; ties are wrong."""
    failures = []
    for case in (case for case in results[list(results)[-1]].worst(k) if case.group_margin <= 0):
        grids = []
        for model, result in results.items():
            grid = next(other.similarities for other in result.cases if other.id == case.id)
            digits = decimals_needed(grid)
            rows = [[f"{grid[i][c]:.{digits}f}" for i in range(2)] for c in range(2)]  # captions as rows
            grids.append({"model": model, "rows": rows, "verdict": winoground_correct(grid)})
        images = [image_uri(image) for image in case.images]
        failures.append({"images": images, "captions": case.captions, "grids": grids, "tag": case.category})
    return failures
