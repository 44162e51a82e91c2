"""Means, deviations, intervals and paired tests from bits, against loops and against what is known beforehand."""

import numpy as np
import pytest

from experiments.paper import difference, estimate
from vladva_kit.evaluation.bootstrap import bootstrap_interval, mcnemar

G = ("winoground/seen/group",)


def bits(seed, n=60, share=0.5):
    return "".join("01"[value] for value in (np.random.default_rng(seed).random(n) < share).astype(int))


def test_one_seed_gives_the_interval_of_its_cases_and_no_deviation(record):
    right = bits(0)
    found = estimate([record(0, {G[0]: right})], G)
    correct = [digit == "1" for digit in right]
    assert found.mean == pytest.approx(100 * sum(correct) / 60) and found.sd is None
    assert (found.low, found.high) == bootstrap_interval(correct)
    assert (found.n, found.seeds, found.chance) == (60, 1, 50.0)


def test_seeds_give_mean_and_deviation(record):
    rights = [bits(seed) for seed in (1, 2, 3)]
    found = estimate([record(seed, {G[0]: right}) for seed, right in enumerate(rights)], G)
    percents = [100 * right.count("1") / 60 for right in rights]
    mean = sum(percents) / 3
    assert found.mean == pytest.approx(mean)
    assert found.sd == pytest.approx((sum((one - mean) ** 2 for one in percents) / 2) ** 0.5)
    assert found.low < mean < found.high and str(found).startswith(f"{mean:.1f} ± {found.sd:.1f} [")


def test_several_measures_count_the_same_however_many_their_cases(record):
    cell = record(0, {"a": "1" * 10, "b": "0" * 90})
    found = estimate([cell], ("a", "b"))
    assert (found.mean, found.low, found.high, found.n) == (50, 50, 50, 100)


def test_captions_of_one_picture_are_drawn_together(record):
    right = "111000" * 20
    together, apart = (estimate([record(0, {G[0]: right}, n)], G) for n in (3, 1))
    assert together.high - together.low > 1.4 * (apart.high - apart.low)


def test_a_difference_is_paired_and_its_p_is_mcnemars(record):
    one, other = bits(4), bits(5, share=0.8)
    found = difference([record(0, {G[0]: one})], [record(0, {G[0]: other})], G)
    first, second = ([digit == "1" for digit in right] for right in (one, other))
    gains = [b - a for a, b in zip(first, second, strict=True)]
    assert found.mean == pytest.approx(100 * sum(gains) / 60)
    assert (found.low, found.high) == bootstrap_interval(gains)
    assert found.p_values == (mcnemar(first, second).p_value,)


def test_outcomes(record):
    low, high = record(0, {G[0]: "0" * 50}), record(0, {G[0]: "1" * 50})
    assert difference([low], [high], G).outcome == "above"
    assert difference([high], [low], G).outcome == "below"
    same = difference([high], [high], G)
    assert same.outcome == "level" and same.p_values == (1.0,)


def test_one_frozen_row_is_held_against_every_seed(record):
    base, tuned = record(None, {G[0]: bits(6)}), [record(seed, {G[0]: bits(seed + 10)}) for seed in range(3)]
    found = difference([base], tuned, G)
    assert len(found.p_values) == 3
    alone = [difference([base], [cell], G) for cell in tuned]
    assert found.p_values == tuple(one.p_values[0] for one in alone)
    assert found.mean == pytest.approx(np.mean([one.mean for one in alone]))


def test_what_is_not_measured_is_none_and_what_cannot_be_paired_is_refused(record):
    cell = record(0, {G[0]: "01"})
    assert estimate([cell], ("other",)) is None and difference([cell], [record(0, {})], G) is None
    with pytest.raises(ValueError, match="2 and 3 seeds"):
        difference([cell] * 2, [cell] * 3, G)
    with pytest.raises(ValueError, match="2 and 3 cases"):
        difference([cell], [record(0, {G[0]: "011"})], G)
