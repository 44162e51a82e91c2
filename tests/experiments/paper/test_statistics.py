"""Means, deviations, intervals and paired tests over seeds, against direct computations."""

import numpy as np
import pytest

from experiments.paper.statistics import estimate, gain
from vladva_kit.evaluation.bootstrap import bootstrap_interval, mcnemar

G = ("winoground/seen/group",)


def bits(seed, n=60, share=0.5):
    return "".join("01"[value] for value in (np.random.default_rng(seed).random(n) < share).astype(int))


def as_bools(digits):
    return [digit == "1" for digit in digits]


def test_single_seed_has_the_interval_of_its_cases_and_no_deviation(record):
    digits = bits(0)
    result = estimate([record(0, {G[0]: digits})], G)
    assert result.percent == pytest.approx(100 * digits.count("1") / 60) and result.sd is None
    assert (result.low, result.high) == bootstrap_interval(as_bools(digits))
    assert (result.n, result.chance) == (60, 50.0)


def test_several_seeds_have_mean_and_standard_deviation(record):
    runs = [bits(seed) for seed in (1, 2, 3)]
    result = estimate([record(seed, {G[0]: digits}) for seed, digits in enumerate(runs)], G)
    percents = [100 * digits.count("1") / 60 for digits in runs]
    mean = sum(percents) / 3
    assert result.percent == pytest.approx(mean)
    assert result.sd == pytest.approx((sum((one - mean) ** 2 for one in percents) / 2) ** 0.5)
    assert result.low < mean < result.high and str(result).startswith(f"{mean:.1f} ± {result.sd:.1f} [")


def test_measures_count_equally_whatever_their_number_of_cases(record):
    result = estimate([record(0, {"a": "1" * 10, "b": "0" * 90})], ("a", "b"))
    assert (result.percent, result.low, result.high, result.n) == (50, 50, 50, 100)


def test_cases_of_one_image_are_resampled_together(record):
    grouped, single = (estimate([record(0, {G[0]: "111000" * 20}, size)], G) for size in (3, 1))
    assert grouped.high - grouped.low > 1.4 * (single.high - single.low)


def test_measures_that_share_images_are_resampled_together(record):
    names = tuple(f"sugarcrepe/seen/{kind}" for kind in range(7))
    digits, images = "1" * 42 + "0" * 18, tuple(f"image {n}" for n in range(60))
    shared = estimate([record(0, dict.fromkeys(names, digits), images)], names)
    assert (shared.low, shared.high) == pytest.approx((58.3, 81.7), abs=2)
    none = record(0, dict.fromkeys(names, "0" * 60), images)
    difference = gain([none], [record(0, dict.fromkeys(names, digits), images)], names)
    assert (difference.low, difference.high) == (shared.low, shared.high)


def test_measure_without_a_chance_level_has_none(record):
    one = record(0, {G[0]: "0110"})
    one["measures"][G[0]]["chance"] = None
    assert estimate([one], G).chance is None


def test_gain_is_paired_and_uses_mcnemars_test(record):
    one, other = bits(4), bits(5, share=0.8)
    result = gain([record(0, {G[0]: one})], [record(0, {G[0]: other})], G)
    first, second = as_bools(one), as_bools(other)
    changes = [b - a for a, b in zip(first, second, strict=True)]
    assert result.points == pytest.approx(100 * sum(changes) / 60)
    assert (result.low, result.high) == bootstrap_interval(changes)
    assert result.p_values == (mcnemar(first, second).p_value,)


def test_outcomes(record):
    low, high = record(0, {G[0]: "0" * 50}), record(0, {G[0]: "1" * 50})
    assert gain([low], [high], G).outcome == "higher"
    assert gain([high], [low], G).outcome == "lower"
    same = gain([high], [high], G)
    assert same.outcome == "n.s." and same.p_values == (1.0,)


def test_single_run_is_compared_with_every_seed(record):
    base, tuned = record(None, {G[0]: bits(6)}), [record(seed, {G[0]: bits(seed + 10)}) for seed in range(3)]
    result = gain([base], tuned, G)
    each = [gain([base], [one], G) for one in tuned]
    assert result.p_values == tuple(one.p_values[0] for one in each)
    assert result.points == pytest.approx(np.mean([one.points for one in each]))


def test_missing_measures_are_none(record):
    one = record(0, {G[0]: "01"})
    assert estimate([one], ("other",)) is None and gain([one], [record(0, {})], G) is None


def test_records_that_cannot_be_paired_are_errors(record):
    one = record(0, {G[0]: "01"})
    with pytest.raises(ValueError, match="2 and 3 seeds"):
        gain([one] * 2, [one] * 3, G)
    with pytest.raises(ValueError, match="2 and 3 cases"):
        gain([one], [record(0, {G[0]: "011"})], G)
