"""The paper's study in miniature: cells that are trained and judged once, kept as files, and made into tables.

results = run_experiments(["components"], Plan(), Path("runs/ablation"))
print(markdown_table(results, "components"))
"""

from experiments.paper.measures import Measure, measures_of
from experiments.paper.plan import EXPERIMENTS, Cell, Experiment, Plan, Row, experiment
from experiments.paper.runs import run_cell
from experiments.paper.statistics import Difference, Estimate, difference, estimate
from experiments.paper.study import run_experiments
from experiments.paper.tables import COLUMNS, comparison_lines, markdown_table, overview

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
