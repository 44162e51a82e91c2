"""Verdicts follow their rules: supported, partly supported, not supported, not measured."""

import pytest

from experiments.paper.claims import (
    CLAIMS,
    NOT_MEASURED,
    PARTLY,
    SUPPORTED,
    UNSUPPORTED,
    all_of,
    expect,
    verdict_of,
)
from experiments.paper.plan import BASE, BOTH, FULL, LONG, LORA
from experiments.paper.tables import runs_of

R1 = ("image → text R@1, seen",)


def verdict(results, start):
    """The verdict of the claim that starts with these words."""
    (claim,) = [one for one in CLAIMS if one.text.startswith(start)]
    return claim.test(results).verdict


def set_retrieval(results, variant, bit):
    for record in runs_of(results, "components", variant):
        for name, measure in record["measures"].items():
            if name.startswith("retrieval"):
                measure["correct"] = bit * len(measure["correct"])


@pytest.mark.parametrize(
    "parts, expected",
    [([True, True], SUPPORTED), ([True, False], PARTLY), ([True, False, False, True], PARTLY),
     ([False, True, False], UNSUPPORTED), ([False], UNSUPPORTED), ([], NOT_MEASURED)],
)  # fmt: skip
def test_verdict_of_parts(parts, expected):
    assert verdict_of(parts) == expected


def test_expected_outcome_decides_the_verdict(results):
    assert expect("components", BASE, FULL, R1)(results).verdict == SUPPORTED
    assert expect("components", FULL, BASE, R1)(results).verdict == UNSUPPORTED
    assert expect("components-random", BOTH, LONG, R1, ("lower",))(results).verdict == SUPPORTED
    assert expect("components", BASE, BASE, R1)(results).verdict == UNSUPPORTED
    assert expect("components", BASE, BASE, R1, ("higher", "n.s."))(results).verdict == SUPPORTED


def test_evidence_lists_both_values_and_the_interval(results):
    set_retrieval(results, BASE, "0")
    set_retrieval(results, FULL, "1")
    finding = expect("components", BASE, FULL, R1)(results)
    assert finding.evidence == "image → text R@1, seen: 0.0 → 100.0 (+100.0 [+100.0, +100.0])"


def test_combined_rules_agree_or_support_partly(results):
    supported, unsupported = expect("components", BASE, FULL, R1), expect("components", FULL, BASE, R1)
    assert all_of(supported, supported)(results).verdict == SUPPORTED
    assert all_of(unsupported, unsupported)(results).verdict == UNSUPPORTED
    assert all_of(supported, unsupported)(results).verdict == PARTLY
    set_retrieval(results, LORA, "0")
    assert verdict(results, "The order is") == PARTLY


def test_collapse_needs_a_low_loss_far_below_that_on_short_captions(results):
    expected = {0.01: SUPPORTED, 0.2: PARTLY, 0.9: UNSUPPORTED}
    for loss, outcome in expected.items():
        for record in runs_of(results, "collapse", "long captions"):
            record["history"]["contrastive"][-2:] = [loss, loss]
        assert verdict(results, "A contrastive loss on long") == outcome


@pytest.mark.parametrize(
    "start", ["The summary token's attention", "The entropy of the summary token", "The embeddings spread"]
)
def test_rise_is_supported_and_fall_is_not(results, start):
    assert verdict(results, start) == SUPPORTED
    (base,), full = (runs_of(results, "components", variant) for variant in (BASE, FULL))
    before, after = base["representations"], full[0]["representations"]
    base["representations"] = after
    for record in full:
        record["representations"] = before
    assert verdict(results, start) == UNSUPPORTED


def test_prompt_correlations_decide_the_verdict(results):
    assert verdict(results, "Before training, prompts") == SUPPORTED
    results["prompts"]["correlations"]["pearson"]["low"] = -0.1
    assert verdict(results, "Before training, prompts") == PARTLY


def test_one_changed_output_with_the_adapter_off_is_partial_support(results):
    assert verdict(results, "With the adapter off") == SUPPORTED
    runs_of(results, "components", FULL)[0]["adapter_off_equal"] = False
    assert verdict(results, "With the adapter off") == PARTLY


@pytest.mark.parametrize("share, expected", [(0.9, SUPPORTED), (0.6, PARTLY), (0.2, UNSUPPORTED)])
def test_share_of_unchanged_prompt_words_decides_the_verdict(results, share, expected):
    for record in runs_of(results, "components", FULL):
        for side in ("image", "text"):
            record["representations"]["prompt"][side]["unchanged"] = share
    assert verdict(results, "A trained soft prompt") == expected


def test_claims_of_missing_experiments_are_not_measured(results):
    empty = {**results, "experiments": {}, "prompts": None}
    assert {claim.test(empty).verdict for claim in CLAIMS} == {NOT_MEASURED}


def test_every_claim_finds_its_variants_and_columns(results):
    for claim in CLAIMS:
        finding = claim.test(results)
        assert finding.verdict != NOT_MEASURED and finding.evidence, claim.text
