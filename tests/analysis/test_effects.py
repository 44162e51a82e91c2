"""The effects reconstruct the similarities, and the rule on them equals Winoground's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vladva_kit.analysis import twin_loss, winoground_effects
from vladva_kit.evaluation.winoground import winoground_margins


def test_mean_and_effects_reconstruct_the_similarities():
    scores = np.random.default_rng(0).normal(size=(20, 2, 2))
    effects, mean = winoground_effects(scores), scores.mean(axis=(1, 2))
    for i, c in np.ndindex(2, 2):
        image, caption = (1, -1)[i] * effects.image, (1, -1)[c] * effects.caption
        rebuilt = mean + image + caption + (1 if i == c else -1) * effects.interaction
        assert np.allclose(rebuilt, scores[:, i, c])


def test_a_case_is_right_where_the_group_score_is():
    scores = np.random.default_rng(1).normal(size=(300, 2, 2)) + 0.7 * np.eye(2)
    expected = winoground_margins(scores)["group"].correct
    assert 30 < expected.sum() < 270
    assert np.array_equal(winoground_effects(scores).correct, expected)


def test_equal_captions_have_no_interaction():
    column = np.random.default_rng(2).normal(size=(5, 2, 1))
    effects = winoground_effects(np.repeat(column, 2, axis=2))
    assert np.allclose(effects.interaction, 0) and np.allclose(effects.caption, 0) and abs(effects.image).min() > 0
    assert effects.means()["interaction"] == pytest.approx(0)


def test_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        winoground_effects(np.zeros((3, 2)))


def test_twin_loss_equals_torchs_cross_entropy_on_two_pairs():
    scores = np.random.default_rng(3).normal(size=(6, 2, 2))
    for case, loss in zip(torch.tensor(scores), twin_loss(scores, 0.5), strict=True):
        both = [F.cross_entropy(side / 0.5, torch.arange(2)) for side in (case, case.T)]
        assert loss == pytest.approx(float(sum(both)) / 2)


def test_no_bag_of_words_goes_below_ln_2():
    column = 3 * np.random.default_rng(4).normal(size=(50, 2, 1))
    losses = twin_loss(np.repeat(column, 2, axis=2))
    assert losses.min() >= np.log(2) - 1e-12
    assert twin_loss(np.full((1, 2, 2), 0.3)) == pytest.approx([np.log(2)])
