"""Verdicts by their rules: what must hold, what must not, and what was not run."""

import pytest

from experiments.paper.claims import CLAIMS, FAILS, HOLDS, MISSING, PART, every, gain, verdict_of
from experiments.paper.plan import BASE, BOTH, FULL, LONG

R1 = ("image → text R@1, seen",)


def claim(start):
    (found,) = [one for one in CLAIMS if one.text.startswith(start)]
    return found


def rewritten(results, row, right):
    """All of a row's retrieval answers replaced."""
    rows = {one["name"]: one["cells"] for one in results["experiments"]["components"]["rows"]}
    for name in rows[row]:
        for measure, one in results["cells"][name]["measures"].items():
            if measure.startswith("retrieval"):
                one["right"] = right * len(one["right"])


def test_all_some_none():
    assert [verdict_of(parts) for parts in ([True, True], [True, False], [False], [])] == [HOLDS, PART, FAILS, MISSING]


def test_a_gain_holds_where_it_is_there_and_not_where_it_is_turned_round(results):
    assert gain("components", BASE, FULL, R1)(results).verdict == HOLDS
    assert gain("components", FULL, BASE, R1)(results).verdict == FAILS
    assert gain("components", BOTH, LONG, R1, ("below",))(results).verdict == HOLDS
    same = gain("components", BASE, BASE, R1)
    assert (
        same(results).verdict == FAILS
        and gain("components", BASE, BASE, R1, ("above", "level"))(results).verdict == HOLDS
    )


def test_the_text_of_a_gain_has_both_figures_and_the_interval(results):
    rewritten(results, BASE, "0")
    rewritten(results, FULL, "1")
    found = gain("components", BASE, FULL, R1)(results)
    assert found.ours == "image → text R@1, seen: 0.0 → 100.0 (+100.0 [+100.0, +100.0])"


def test_the_order_holds_in_part_where_one_step_is_missing(results):
    order = claim("The order")
    rewritten(results, "+ LoRA", "0")
    assert order.found(results).verdict == PART
    holds, fails = (lambda results: claim("Fine-tuned").found(results)), gain("components", FULL, BASE, R1)
    assert every(holds, holds)(results).verdict == HOLDS
    assert every(fails, fails)(results).verdict == FAILS
    assert every(holds, fails)(results).verdict == PART


def test_the_collapse_needs_a_loss_near_nothing_and_far_under_the_short_captions(results):
    collapse = claim("A contrastive loss on long")
    assert collapse.found(results).verdict == HOLDS
    rows = {one["name"]: one["cells"] for one in results["experiments"]["collapse"]["rows"]}
    for name in rows["long captions"]:
        results["cells"][name]["history"]["contrastive"][-2:] = [0.2, 0.2]
    assert collapse.found(results).verdict == PART
    for name in rows["long captions"]:
        results["cells"][name]["history"]["contrastive"][-2:] = [0.9, 0.9]
    assert collapse.found(results).verdict == FAILS


@pytest.mark.parametrize(
    "start", ["The summary token's attention", "The entropy of its next word", "The embeddings spread"]
)
def test_what_rises_holds_and_what_falls_does_not(results, start):
    assert claim(start).found(results).verdict == HOLDS
    rows = {one["name"]: one["cells"] for one in results["experiments"]["components"]["rows"]}
    before = results["cells"][rows[BASE][0]]["inside"]
    after = results["cells"][rows[FULL][0]]["inside"]
    results["cells"][rows[BASE][0]]["inside"] = after
    for name in rows[FULL]:
        results["cells"][name]["inside"] = before
    assert claim(start).found(results).verdict == FAILS


def test_prompts_and_bit_equality(results):
    assert claim("Prompts with a higher").found(results).verdict == HOLDS
    results["prompts"]["correlations"]["pearson"]["low"] = -0.1
    assert claim("Prompts with a higher").found(results).verdict == PART
    assert claim("With the adapter off").found(results).verdict == HOLDS
    next(cell for cell in results["cells"].values() if "adapter_off_equal" in cell)["adapter_off_equal"] = False
    assert claim("With the adapter off").found(results).verdict == PART


def test_a_soft_prompt_that_reads_otherwise_does_not_hold(results):
    assert claim("A trained soft prompt").found(results).verdict == HOLDS
    for cell in results["cells"].values():
        for side in ("image", "text") if cell.get("inside") else ():
            cell["inside"]["prompt"][side]["unchanged"] = 0.2
    assert claim("A trained soft prompt").found(results).verdict == FAILS


def test_what_was_not_run_is_not_measured(results):
    nothing = {**results, "experiments": {}, "prompts": None}
    assert {one.found(nothing).verdict for one in CLAIMS} == {MISSING}


def test_every_claim_names_rows_that_are_there(results):
    for one in CLAIMS:
        found = one.found(results)
        assert found.verdict != MISSING and found.ours, one.text
