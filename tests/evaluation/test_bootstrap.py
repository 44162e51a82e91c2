"""Bootstrap intervals and McNemar's test against exact computations."""

import dataclasses
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from vladva_kit.evaluation.bootstrap import (
    bootstrap_interval,
    bootstrap_means,
    category_scores,
    groups_sharing,
    mcnemar,
    number_unique,
    score,
)
from vladva_kit.evaluation.metrics import Margins


def test_the_interval_matches_a_binomial_proportion():
    correct = np.arange(1000) < 300
    low, high = bootstrap_interval(correct, seed=1, resamples=4000)
    half = 100 * NormalDist().inv_cdf(0.975) * (0.3 * 0.7 / 1000) ** 0.5
    assert low == pytest.approx(30 - half, abs=0.3) and high == pytest.approx(30 + half, abs=0.3)
    assert bootstrap_interval(correct, seed=1, resamples=4000) == (low, high)


def test_intervals_cover_the_true_value_95_percent_of_the_time():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        low, high = bootstrap_interval(generator.random(200) < 0.4, seed=trial, resamples=400)
        covered += low <= 40 <= high
    assert 0.91 < covered / 400 < 0.98


def test_cases_of_one_group_are_resampled_together():
    correct = np.repeat(np.arange(100) < 50, 5)
    groups = np.repeat(np.arange(100), 5).tolist()
    ungrouped, grouped = np.diff(bootstrap_interval(correct)), np.diff(bootstrap_interval(correct, groups=groups))
    assert grouped / ungrouped == pytest.approx(5**0.5, rel=0.1)
    one_each = bootstrap_interval(correct, groups=list(range(500)))
    assert one_each == bootstrap_interval(correct)


def test_groups_of_different_sizes_weight_cases_equally():
    means = bootstrap_means([1, 0, 0, 0], resamples=3000, groups=["a", "b", "b", "b"])
    # two draws: a a -> 1, a b -> 1/4, b b -> 0
    assert sorted(set(means.tolist())) == [0, 0.25, 1]
    assert np.mean(means == 0.25) == pytest.approx(0.5, abs=0.05)


def test_a_mean_of_parts_resamples_groups_as_a_plain_loop_does():
    rng = np.random.default_rng(3)
    values, parts, groups = rng.random(40), rng.integers(4, size=40).tolist(), rng.integers(12, size=40).tolist()
    names = list(dict.fromkeys(groups))
    expected = []
    for drawn in np.random.default_rng(0).integers(len(names), size=(50, len(names))):
        chosen = [case for number in drawn for case in range(40) if groups[case] == names[number]]
        by_part = [[values[case] for case in chosen if parts[case] == part] for part in range(4)]
        expected.append(np.mean([np.mean(found) for found in by_part if found]))
    assert bootstrap_means(values, resamples=50, groups=groups, parts=parts) == pytest.approx(expected)


def test_categories_that_share_images_widen_the_interval_of_their_mean():
    """The worst case: all seven categories are right on the same 42 of 60 images."""
    correct = np.tile(np.arange(60) < 42, 7)
    margins = Margins(np.where(correct, 1.0, -1.0), np.zeros(420, dtype=bool))
    categories, images = [f"category {case // 60}" for case in range(420)], [case % 60 for case in range(420)]
    chance = dict.fromkeys(categories, 50.0)
    shared = category_scores(margins, categories, images, chance, {"macro": list(chance)})["macro"]
    assert (shared.percent, shared.n) == (pytest.approx(70), 420)
    assert (shared.low, shared.high) == pytest.approx((58.3, 81.7), abs=2)
    apart = category_scores(margins, categories, list(range(420)), chance, {"macro": list(chance)})["macro"]
    assert (apart.low, apart.high) == pytest.approx((65.7, 74.3), abs=1)


def test_cases_that_share_an_image_directly_or_through_others_are_one_group():
    assert groups_sharing(np.array([[0, 1], [2, 3], [1, 4], [5, 6], [7, 4]])) == [0, 1, 0, 3, 0]


def test_a_score_over_several_runs_shows_their_deviation():
    found = score([True, False], None)
    assert found.chance is None and found.short == "50.0"
    assert dataclasses.replace(found, sd=0.25).short == "50.0 ± 0.2" and "sd" not in repr(found)


def test_many_cases_are_resampled_in_chunks():
    assert bootstrap_means(np.ones(600_000), resamples=3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("only_first, only_second", [(0, 0), (0, 5), (5, 0), (2, 7), (4, 4), (1, 9)])
def test_mcnemar_equals_enumerating_all_coin_flips(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True, True, False]
    second = [False] * only_first + [True] * only_second + [True, True, False]
    n, fewer = only_first + only_second, min(only_first, only_second)
    heads = [sum(coins) for coins in product([0, 1], repeat=n)]
    p_value = sum(min(count, n - count) <= fewer for count in heads) / len(heads)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(p_value)


def test_mcnemar_is_exact_for_many_cases():
    first, second = np.zeros(20_000, dtype=bool), np.zeros(20_000, dtype=bool)
    first[:9_900], second[9_900:] = True, True
    z = (10_100 - 9_900 - 1) / 20_000**0.5
    assert mcnemar(first, second).p_value == pytest.approx(2 * NormalDist().cdf(-z), rel=1e-3)


def test_a_score_holds_interval_chance_n_and_ties():
    found = score([True] * 30 + [False] * 70, 25.0, tied=[True] * 5 + [False] * 95)
    assert (found.percent, found.chance, found.n, found.ties) == (30, 25, 100, 5)
    assert str(found).startswith("30.0 [2") and found.low < 30 < found.high


def test_unique_keys_are_numbered_in_order_of_appearance():
    assert number_unique(["b", "a", "b", "c", "a"]).tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda: bootstrap_interval([]), "at least one case"),
        (lambda: bootstrap_interval([True], groups=[1, 2]), "2 groups for 1 cases"),
        (lambda: bootstrap_means([True], parts=[1, 2]), "2 parts for 1 cases; give each case its part"),
        (lambda: bootstrap_interval([True], level=95), "level is 95"),
        (lambda: mcnemar([True], [True, False]), "for the same cases"),
    ],
)
def test_arguments_that_do_not_fit_are_rejected(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
