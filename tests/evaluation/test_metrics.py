"""Metrics against plain loops, on scores with many ties."""

import numpy as np
import pytest
import torch

from vladva_kit.evaluation.metrics import joined, ranks


def coarse(*shape, seed=0, levels=4):
    """Scores with few different values, so that ties are frequent."""
    return np.random.default_rng(seed).integers(0, levels, shape) / levels


def test_recall_equals_a_loop_over_sorted_lists_with_ties():
    scores, right = coarse(40, 15, levels=8), np.random.default_rng(1).random((40, 15)) < 0.2
    right[np.arange(40), np.arange(40) % 15] = True
    hits = {1: 0, 5: 0, 10: 0}
    ties, hardest = 0, ranks(scores, right).hardest_negative.tolist()
    for query in range(40):
        # highest score first, and among equal scores the wrong ones first
        order = sorted(range(15), key=lambda c: (-scores[query, c], right[query, c]))
        for k in hits:
            hits[k] += any(right[query, c] for c in order[:k])
        best = max(scores[query, c] for c in range(15) if right[query, c])
        ties += any(scores[query, c] == best for c in range(15) if not right[query, c])
        wrong = [c for c in range(15) if not right[query, c]]
        assert hardest[query] in wrong and scores[query, hardest[query]] == max(scores[query, c] for c in wrong)
    ranked = ranks(scores, right)
    assert {k: ranked.recall(k) for k in hits} == {k: pytest.approx(100 * n / 40) for k, n in hits.items()}
    assert ranked.tied.sum() == ties > 0
    sets = [set(np.flatnonzero(row).tolist()) for row in right]
    for same in (ranks(torch.tensor(scores), sets), ranks(scores, torch.tensor(right))):
        assert same.rank.tolist() == ranked.rank.tolist()


def test_the_margin_is_the_best_right_minus_the_best_wrong_score():
    ranked = ranks([[0.5, 0.25, 0.75], [0.5, 0.25, 0.0], [0.0, 0.0, 0.0]], [[0], [0, 1], [0, 1, 2]])
    assert ranked.margin.tolist() == [-0.25, 0.5, np.inf]
    assert ranked.rank.tolist() == [1, 0, 0]
    assert ranked.tied.tolist() == [False, False, False]
    assert ranked.hardest_negative.tolist() == [2, 2, -1]


def test_joined_blocks_equal_all_queries_at_once():
    scores, right = coarse(30, 9), np.random.default_rng(1).random((30, 9)) < 0.3
    right[np.arange(30), np.arange(30) % 9] = True
    once = ranks(scores, right)
    blocks = joined([ranks(scores[block], right[block]) for block in (slice(0, 7), slice(7, 30))])
    for name in ("rank", "margin", "tied", "hardest_negative"):
        assert getattr(once, name).tolist() == getattr(blocks, name).tolist()


def test_recall_counts_ties_as_misses():
    ranked = ranks(np.ones((5, 20)), np.eye(5, 20, dtype=bool))
    assert [ranked.recall(k) for k in (1, 5, 10)] == [0, 0, 0] and ranked.tied.sum() == 5


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda: ranks([[0.1, np.nan]], [[0]]), "NaN or infinite"),
        (lambda: ranks([[0.1, 0.2]], [[]]), "query 0 and 0 others have no right candidate"),
        (lambda: ranks([[0.1, 0.2]], [[2]]), "positives of query 0 are .2.; they must be indices from 0 to 1"),
        (lambda: ranks([[0.1, 0.2]], [[-1]]), "from 0 to 1"),
        (lambda: ranks([[0.1, 0.2]], [[True, False]]), "from 0 to 1"),
        (lambda: ranks([[0.1, 0.2]], [[0], [1]]), "positives for 2 queries, scores for 1"),
        (lambda: ranks([[0.1, 0.2]], np.array([[1, 0]])), "a bool matrix .* is needed"),
        (lambda: ranks([[0.1, 0.2]], np.array([[True]])), "a bool matrix .* is needed"),
        (lambda: ranks([0.1, 0.2], [[0]]), "2 dimensions are needed"),
    ],
)
def test_arrays_that_do_not_fit_are_rejected(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
