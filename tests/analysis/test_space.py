"""Variance, effective rank and gap against eigenvalues of a covariance, and against spaces whose answer is known."""

import numpy as np
import pytest

from vladva_kit.analysis import modality_gap, spectrum


def test_variances_are_the_eigenvalues_of_the_covariance():
    values = np.random.default_rng(0).normal(size=(40, 7)) * np.arange(1, 8)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(values.T)))[::-1]
    found = spectrum(values)
    assert np.allclose(found.variances, eigenvalues)
    assert np.allclose(found.cumulative, [eigenvalues[: n + 1].sum() / eigenvalues.sum() for n in range(7)])
    shares = eigenvalues / eigenvalues.sum()
    assert found.effective_rank == pytest.approx(np.exp(-sum(share * np.log(share) for share in shares)))


def test_a_line_has_rank_one_and_even_axes_have_their_number():
    assert spectrum(np.outer(np.arange(5.0), [1, 2, 3])).effective_rank == pytest.approx(1)
    even = spectrum(np.vstack([np.eye(6), -np.eye(6)]))
    assert even.effective_rank == pytest.approx(6)
    assert [even.components_for(part) for part in (0.1, 0.5, 1.0)] == [1, 3, 6]


def test_the_gap_is_the_distance_of_the_means():
    images, texts = np.random.default_rng(1).normal(size=(2, 30, 5))
    gap = modality_gap(images, texts)
    means = [[sum(row[d] for row in side) / 30 for d in range(5)] for side in (images, texts)]
    assert gap.distance == pytest.approx(sum((a - b) ** 2 for a, b in zip(*means, strict=True)) ** 0.5)
    assert modality_gap(images, images).distance == 0


def test_what_has_no_variance_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="all 4 embeddings are the same"):
        spectrum(np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        spectrum(np.ones((1, 3)))
    with pytest.raises(ValueError, match="3 dimensions and texts 4"):
        modality_gap(np.ones((2, 3)), np.ones((2, 4)))
