"""The table of defaults: each value that was tried, the default in bold."""

from experiments.paper.defaults import DEFAULTS, defaults_table
from experiments.paper.plan import FULL
from experiments.paper.tables import value_of, variants_of


def test_every_default_is_a_variant_of_its_experiment_and_bold(results):
    rows = [line for line in defaults_table(results).splitlines()[2:] if line.startswith("|")]
    assert len(rows) == len(DEFAULTS)
    for row, default in zip(rows, DEFAULTS, strict=True):
        assert default.chosen in variants_of(results, default.experiment)
        seen, unseen = (
            value_of(results, default.experiment, default.chosen, f"Winoground group, {style}").percent
            for style in ("seen", "unseen style")
        )
        assert f"**{default.chosen}: {seen:.1f} / {unseen:.1f}**" in row


def test_scores_that_the_chosen_variant_lacks_are_not_listed(results):
    twins = next(row for row in defaults_table(results).splitlines() if "quarter of twins" in row)
    assert twins.endswith("| — |")


def test_spread_over_seeds_is_stated(results):
    spread = value_of(results, "components", FULL, "Winoground group, seen").sd
    assert f"a standard deviation of {spread:.1f} / " in defaults_table(results).splitlines()[-1]


def test_without_sweeps_there_is_no_table(results):
    components = {name: one for name, one in results["experiments"].items() if name == "components"}
    assert defaults_table({**results, "experiments": components}) == ""
