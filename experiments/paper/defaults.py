"""Tabulate what the default settings rest on: the scores of each value that was tried."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.paper.plan import FULL, Plan
from experiments.paper.tables import MAIN, Results, value_of, variants_of
from vladva_kit.evaluation.tables import MISSING, markdown_rows

SCORES = ("Winoground group", "text → image R@1", "captions true")


@dataclass(frozen=True)
class Default:
    """A default setting, and the experiment that varies it."""

    setting: str  # as a user writes it
    experiment: str
    chosen: str  # the variant that is, or is nearest to, the default


_RATE = Plan.soft_prompt_learning_rate
DEFAULTS = (
    Default(f"soft_prompt_learning_rate: {_RATE / Plan.learning_rate:.0f} x learning_rate", "soft-prompt-rate",
            f"learning rate {_RATE:g}"),
    Default(f"next_token_weight={Plan.next_token_weight}", "next-token-weight", f"weight {Plan.next_token_weight:g}"),
    Default("batches: a quarter of twins, if there are any", "twins", "0.25 twins"),
    Default("LoRA of rank 16", "rank", "rank 16"),
    Default("learn_temperature=True", "temperature", "learned from 0.07"),
    Default("batch_size=64", "batch-size", f"batch {Plan.batch_size}"),
    Default("distill_weight=0", "distillation-twins", "twins"),
    Default("no interpolation", "interpolation", "LoRA x 1"),
)  # fmt: skip


def defaults_table(results: Results) -> str:
    """Return a Markdown table of the measured defaults, the chosen value in bold; "" if none was measured.

    print(defaults_table(results))
    """
    measured = [one for one in DEFAULTS if one.experiment in results["experiments"]]
    rows = [
        [
            f"`{one.setting}`" if "=" in one.setting else one.setting,
            *(_by_value(results, one, score) for score in SCORES),
        ]
        for one in measured
    ]
    return f"{markdown_rows(['default', *SCORES], rows, 'llll')}{_spread(results)}" if rows else ""


def _spread(results: Results) -> str:
    """State how far equal runs with other seeds differ, by which single differences are to be judged."""
    if "components" not in results["experiments"]:
        return ""
    spreads = [value_of(results, "components", FULL, column).sd for column in MAIN[SCORES[0]]]
    if None in spreads:
        return ""
    text = " / ".join(f"{sd:.1f}" for sd in spreads)
    return f"\nMost values are of one seed. Over seeds, the default's group score has a standard deviation of {text}.\n"


def _by_value(results: Results, default: Default, score: str) -> str:
    """List a score for each value that was tried, seen / unseen style: "rank 1 40.0 / 30.0, **rank 16 …**"."""
    if value_of(results, default.experiment, default.chosen, MAIN[score][0]) is None:
        return MISSING
    cells = []
    for name in variants_of(results, default.experiment):
        values = [value_of(results, default.experiment, name, column) for column in MAIN[score]]
        if all(values):
            cell = f"{name}: {' / '.join(f'{value.percent:.1f}' for value in values)}"
            cells.append(f"**{cell}**" if name == default.chosen else cell)
    return "; ".join(cells)
