import numpy as np
import pytest
import torch

from vladva_kit.evaluation.metrics import (
    choice,
    joined,
    macro,
    micro,
    ranks,
    recall_at_k,
    sugarcrepe,
    sugarcrepe_pp_itt,
    sugarcrepe_pp_tot,
    winoground,
)


def coarse(*shape, seed=0, levels=4):
    """Scores of few values, so that ties are frequent."""
    return np.random.default_rng(seed).integers(0, levels, shape) / levels


def test_recall_equals_a_plain_loop_over_sorted_lists_with_ties():
    scores, right = coarse(40, 15, levels=8), np.random.default_rng(1).random((40, 15)) < 0.2
    right[np.arange(40), np.arange(40) % 15] = True
    hits = {1: 0, 5: 0, 10: 0}
    ties, rivals = 0, ranks(scores, right).rival.tolist()
    for query in range(40):
        # highest score first, and among equal scores the wrong ones first
        order = sorted(range(15), key=lambda c: (-scores[query, c], right[query, c]))
        for k in hits:
            hits[k] += any(right[query, c] for c in order[:k])
        best = max(scores[query, c] for c in range(15) if right[query, c])
        ties += any(scores[query, c] == best for c in range(15) if not right[query, c])
        wrong = [c for c in range(15) if not right[query, c]]
        assert rivals[query] in wrong and scores[query, rivals[query]] == max(scores[query, c] for c in wrong)
    assert recall_at_k(scores, right) == {k: pytest.approx(100 * n / 40) for k, n in hits.items()}
    assert ranks(scores, right).ties == ties > 0
    sets = [set(np.flatnonzero(row).tolist()) for row in right]
    assert recall_at_k(torch.tensor(scores), sets) == recall_at_k(scores, torch.tensor(right))


def test_the_margin_is_the_best_right_minus_the_best_wrong():
    found = ranks([[0.5, 0.25, 0.75], [0.5, 0.25, 0.0], [0.0, 0.0, 0.0]], [[0], [0, 1], [0, 1, 2]])
    assert found.margin.tolist() == [-0.25, 0.5, np.inf]
    assert found.rank.tolist() == [1, 0, 0]
    assert found.tied.tolist() == [False, False, False]
    assert found.rival.tolist() == [2, 2, -1]


def test_blocks_of_queries_joined_are_what_all_of_them_at_once_give():
    scores, right = coarse(30, 9), np.random.default_rng(1).random((30, 9)) < 0.3
    right[np.arange(30), np.arange(30) % 9] = True
    whole, parts = ranks(scores, right), joined([ranks(scores[at], right[at]) for at in (slice(0, 7), slice(7, 30))])
    for name in ("rank", "margin", "tied", "rival"):
        assert getattr(whole, name).tolist() == getattr(parts, name).tolist()


def test_winoground_equals_the_official_rule_in_a_plain_loop_with_ties():
    scores = coarse(300, 2, 2)
    text = image = group = tied = 0
    for case in scores:
        i0c0, i0c1, i1c0, i1c1 = case[0, 0], case[0, 1], case[1, 0], case[1, 1]
        text_right = i0c0 > i0c1 and i1c1 > i1c0
        image_right = i0c0 > i1c0 and i1c1 > i0c1
        text, image, group = text + text_right, image + image_right, group + (text_right and image_right)
        tied += i0c0 in (i0c1, i1c0) or i1c1 in (i1c0, i0c1)
    found = winoground(scores)
    assert found.text_score == pytest.approx(text / 3) and found.image_score == pytest.approx(image / 3)
    assert found.group_score == pytest.approx(group / 3)
    assert found.ties == tied > 0
    assert ((found.group_margin > 0) == found.group).all()


def test_winoground_tells_images_from_captions():
    # both images prefer their own caption, but the first image wins both captions
    found = winoground([[[0.9, 0.8], [0.1, 0.2]]])
    assert (found.text_score, found.image_score, found.group_score) == (100, 0, 0)


def test_sugarcrepe_equals_a_plain_loop_with_ties():
    positive, negative = coarse(200), coarse(200, seed=1)
    found = sugarcrepe(positive, negative)
    assert found.score == pytest.approx(sum(p > n for p, n in zip(positive, negative, strict=True)) / 2)
    assert found.ties == sum(p == n for p, n in zip(positive, negative, strict=True)) > 0


@pytest.mark.parametrize("seed", range(5))
def test_sugarcrepe_pp_equals_the_official_rule_in_a_plain_loop_with_ties(seed):
    p1, p2, n, p12, p1n, p2n = coarse(6, 200, seed=seed)
    itt = tot = itt_ties = tot_ties = 0
    for case in range(200):
        itt += p1[case] > n[case] and p2[case] > n[case]
        itt_ties += min(p1[case], p2[case]) == n[case]
        tot += p12[case] > p1n[case] and p12[case] > p2n[case]
        tot_ties += p12[case] == max(p1n[case], p2n[case])
    found = sugarcrepe_pp_itt(p1, p2, n)
    assert (found.score, found.ties) == (pytest.approx(itt / 2), itt_ties) and itt_ties > 0
    found = sugarcrepe_pp_tot(p12, p1n, p2n)
    assert (found.score, found.ties) == (pytest.approx(tot / 2), tot_ties) and tot_ties > 0


@pytest.mark.parametrize("wrong", [1, 4])
def test_a_choice_equals_a_plain_loop_in_which_no_tie_is_given_away(wrong):
    true, false = coarse(300, levels=9), coarse(300, wrong, seed=1, levels=9)
    right = ties = 0
    for one, others in zip(true, false, strict=True):
        right += all(one > other for other in others)
        ties += any(one == other for other in others) and all(one >= other for other in others)
    found = choice(true, false)
    assert (found.score, found.ties) == (pytest.approx(right / 3), ties) and ties > 0


@pytest.mark.parametrize("seed", range(5))
def test_random_scores_are_at_chance(seed):
    rng = np.random.default_rng(seed)
    n = 4000
    for found, chance in (
        (sugarcrepe(*rng.random((2, n))), 1 / 2),
        (sugarcrepe_pp_itt(*rng.random((3, n))), 1 / 3),
        (sugarcrepe_pp_tot(*rng.random((3, n))), 1 / 3),
        (choice(rng.random(n), rng.random((n, 4))), 1 / 5),
    ):
        assert abs(found.score / 100 - chance) < 3.5 * (chance * (1 - chance) / n) ** 0.5


def test_macro_counts_categories_and_micro_counts_cases():
    correct = {"swap_obj": [True, False], "add_obj": np.array([True, True, True])}
    assert macro(correct) == 75
    assert micro(correct) == 80
    with pytest.raises(ValueError, match="no cases in add_att"):
        macro(correct | {"add_att": []})


def test_equal_scores_are_wrong_everywhere():
    assert recall_at_k(np.ones((5, 20)), np.eye(5, 20, dtype=bool)) == {1: 0, 5: 0, 10: 0}
    assert winoground(np.ones((5, 2, 2))).text_score == winoground(np.ones((5, 2, 2))).image_score == 0
    assert sugarcrepe(np.ones(5), np.ones(5)).score == 0
    assert sugarcrepe_pp_itt(*np.ones((3, 5))).score == sugarcrepe_pp_tot(*np.ones((3, 5))).score == 0
    assert choice(np.ones(5), np.ones((5, 4))).score == 0
    assert ranks(np.ones((5, 20)), np.eye(5, 20, dtype=bool)).ties == 5
    assert winoground(np.ones((5, 2, 2))).ties == sugarcrepe(np.ones(5), np.ones(5)).ties == 5


def test_tensors_of_any_precision_are_taken():
    scores = torch.tensor([[[0.5, 0.25], [0.0, 1.0]]], dtype=torch.bfloat16, requires_grad=True)
    assert winoground(scores).group_score == 100


def test_floats_that_differ_in_the_last_bit_are_no_tie():
    low = np.float32(0.3)
    found = sugarcrepe(np.array([np.nextafter(low, np.float32(1)), low]), np.array([low, low]))
    assert found.correct.tolist() == [True, False] and found.ties == 1


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda: recall_at_k([[0.1, np.nan]], [[0]]), "NaN or infinite"),
        (lambda: recall_at_k([[0.1, 0.2]], [[]]), "query 0 has no right candidate"),
        (lambda: recall_at_k([[0.1, 0.2]], [[2]]), "positives of query 0 are .2.; they must be numbers from 0 to 1"),
        (lambda: recall_at_k([[0.1, 0.2]], [[-1]]), "from 0 to 1"),
        (lambda: recall_at_k([[0.1, 0.2]], [[True, False]]), "from 0 to 1"),
        (lambda: recall_at_k([[0.1, 0.2]], [[0], [1]]), "positives for 2 queries, scores for 1"),
        (lambda: recall_at_k([[0.1, 0.2]], np.array([[1, 0]])), "needed is a bool matrix"),
        (lambda: recall_at_k([[0.1, 0.2]], np.array([[True]])), "needed is a bool matrix"),
        (lambda: recall_at_k([0.1, 0.2], [[0]]), "needed are 2 dimensions"),
        (lambda: recall_at_k([[0.1, 0.2]], [[0]], ks=(0,)), "each k must be at least 1"),
        (lambda: winoground(np.ones((4, 2, 3))), r"shape \(4, 2, 3\)"),
        (lambda: winoground(np.ones((0, 2, 2))), "none of them empty"),
        (lambda: sugarcrepe([0.1], [0.1, 0.2]), "positive .1,., negative .2,.; each case needs one of each"),
        (lambda: sugarcrepe_pp_itt([0.1], [0.1], [0.1, 0.2]), "each case needs one of each"),
        (lambda: choice([0.1], [[0.1], [0.2]]), "each case needs one row of both"),
        (lambda: choice([0.1], [0.1]), "needed are 2 dimensions"),
        (lambda: micro({}), "no cases in any category"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
