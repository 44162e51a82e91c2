"""The models side by side for a paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vladva_kit.evaluation.tables import interval_text, score_rows


def latex_table(results: Mapping[str, Any]) -> str:
    """The models side by side for a paper, in LaTeX (booktabs); bold: the interval lies above those of all others.

    Raises ValueError for results without models.
    """
    rows = [row for row in score_rows(results) if row.level < 2]
    models = list(results["models"])
    head = " & ".join(["", *map(_latex, models), "guessing", "$n$"])
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(models) + 2)}}}", r"\toprule", head + r" \\", r"\midrule"]
    for row in rows:
        cells = [_latex(f"{row.section}: {row.name}").replace("→", r"$\to$")]
        for model, score in row.scores.items():
            text = "---" if score is None else f"{score['percent']:.1f} {interval_text(score)}".strip()
            cells.append(rf"\textbf{{{text}}}" if model == row.clear_winner else text)
        lines.append(" & ".join([*cells, row.chance_text, row.n_text]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex(text: str) -> str:
    """A text as LaTeX prints it, whatever signs it holds."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(signs.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)
