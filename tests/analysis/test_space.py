"""Variance, effective rank, gap and projections against independent computations."""

import sys

import numpy as np
import pytest
from fake_umap import FakeUmap

from vladva_kit.analysis import modality_gap, project_2d, spectrum


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(0)
    return generator.normal(size=(12, 8)), generator.normal(size=(12, 8)) + 1


def test_variances_are_the_eigenvalues_of_the_covariance():
    values = np.random.default_rng(0).normal(size=(40, 7)) * np.arange(1, 8)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(values.T)))[::-1]
    result = spectrum(values)
    assert np.allclose(result.variances, eigenvalues)
    assert np.allclose(result.cumulative, [eigenvalues[: n + 1].sum() / eigenvalues.sum() for n in range(7)])
    shares = eigenvalues / eigenvalues.sum()
    assert result.effective_rank == pytest.approx(np.exp(-sum(share * np.log(share) for share in shares)))


def test_effective_rank_is_one_for_a_line_and_the_dimension_for_equal_variances():
    assert spectrum(np.outer(np.arange(5.0), [1, 2, 3])).effective_rank == pytest.approx(1)
    isotropic = spectrum(np.vstack([np.eye(6), -np.eye(6)]))
    assert isotropic.effective_rank == pytest.approx(6)
    assert [isotropic.components_for(share) for share in (0.1, 0.5, 1.0)] == [1, 3, 6]


def test_the_gap_is_the_distance_of_the_means(embeddings):
    gap = modality_gap(*embeddings)
    means = [[sum(row[d] for row in side) / 12 for d in range(8)] for side in embeddings]
    assert gap.distance == pytest.approx(sum((a - b) ** 2 for a, b in zip(*means, strict=True)) ** 0.5)
    assert modality_gap(embeddings[0], embeddings[0]).distance == 0


def test_pca_projects_on_the_largest_eigenvectors_of_the_covariance(embeddings):
    projection, both = project_2d(*embeddings), np.concatenate(embeddings)
    values, vectors = np.linalg.eigh(np.cov(both.T))
    for axis in (0, 1):
        expected = (both - both.mean(0)) @ vectors[:, -1 - axis]
        actual = np.concatenate([projection.images, projection.texts])[:, axis]
        assert np.allclose(np.abs(actual), np.abs(expected)) and abs(np.corrcoef(actual, expected)[0, 1]) > 0.999
        assert f"({values[-1 - axis] / values.sum():.0%} of variance)" in projection.axes[axis]


def test_umap_gets_the_cosine_metric_the_seed_and_few_neighbors(embeddings, monkeypatch):
    umap = FakeUmap()
    monkeypatch.setitem(sys.modules, "umap", umap)
    projection = project_2d(*embeddings, "UMAP", seed=3)
    assert umap.asked == [{"n_neighbors": 15, "metric": "cosine", "random_state": 3, "n_jobs": 1}]
    assert np.array_equal(projection.texts, embeddings[1][:, :2]) and "no unit" in projection.axes[0]
    project_2d(*(vectors[:3] for vectors in embeddings), "UMAP")
    assert umap.asked[1]["n_neighbors"] == 5


def test_a_missing_umap_is_named_with_the_way_to_install_it(embeddings, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"pip install 'vladva-kit\[notebooks\]', or choose PCA"):
        project_2d(*embeddings, "UMAP")


def test_invalid_embeddings_and_methods_raise_errors(embeddings):
    with pytest.raises(ValueError, match="all 4 embeddings are identical"):
        spectrum(np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        spectrum(np.ones((1, 3)))
    for measure in (modality_gap, project_2d):
        with pytest.raises(ValueError, match="8 dimensions, texts 7"):
            measure(embeddings[0], embeddings[1][:, :7])
    with pytest.raises(ValueError, match="2 embeddings"):
        project_2d(np.eye(2)[:1], np.eye(2)[1:])
    with pytest.raises(ValueError, match="unknown method 't-SNE'; choose PCA or UMAP"):
        project_2d(*embeddings, "t-SNE")
