"""The paper's study in miniature: cells that are trained and judged once, kept as files, and made into tables.

results = run_experiments(["components"], Plan(), Path("runs/ablation"))
print(markdown_table(results, "components"))
"""

from vladva_kit.ablation.cells import run_cell
from vladva_kit.ablation.measures import Measure, measures_of
from vladva_kit.ablation.plan import EXPERIMENTS, Cell, Experiment, Plan, Row, experiment
from vladva_kit.ablation.run import run_experiments
from vladva_kit.ablation.statistics import Difference, Estimate, difference, estimate
from vladva_kit.ablation.tables import COLUMNS, comparison_lines, markdown_table, overview

__all__ = [
    "COLUMNS",
    "EXPERIMENTS",
    "Cell",
    "Difference",
    "Estimate",
    "Experiment",
    "Measure",
    "Plan",
    "Row",
    "comparison_lines",
    "difference",
    "estimate",
    "experiment",
    "markdown_table",
    "measures_of",
    "overview",
    "run_cell",
    "run_experiments",
]
