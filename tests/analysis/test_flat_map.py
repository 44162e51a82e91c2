"""The planes: PCA's by an independent computation, UMAP's by what is asked of it."""

import sys

import numpy as np
import pytest
from fake_umap import FakeUmap

from vladva_kit.analysis import flat_map

N = 12


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(0)
    return generator.normal(size=(N, 8)), generator.normal(size=(N, 8)) + 1


def test_pca_is_the_plane_of_the_covariances_largest_eigenvectors(embeddings):
    images, texts = embeddings
    places = flat_map(images, texts)
    both = np.concatenate([images, texts])
    values, vectors = np.linalg.eigh(np.cov(both.T))
    for axis in (0, 1):
        along = (both - both.mean(0)) @ vectors[:, -1 - axis]
        ours = np.concatenate([places.images, places.texts])[:, axis]
        assert np.allclose(np.abs(ours), np.abs(along)) and abs(np.corrcoef(ours, along)[0, 1]) > 0.999
        assert f"({values[-1 - axis] / values.sum():.0%} of variance)" in places.axes[axis]


def test_umap_is_asked_by_cosine_for_few_neighbors_and_with_a_seed(embeddings, monkeypatch):
    umap = FakeUmap()
    monkeypatch.setitem(sys.modules, "umap", umap)
    places = flat_map(*embeddings, "UMAP", seed=3)
    assert umap.asked == [{"n_neighbors": 15, "metric": "cosine", "random_state": 3, "n_jobs": 1}]
    assert np.array_equal(places.texts, embeddings[1][:, :2]) and "no unit" in places.axes[0]
    flat_map(*(vectors[:3] for vectors in embeddings), "UMAP")
    assert umap.asked[1]["n_neighbors"] == 5


def test_what_does_not_fit_is_refused(embeddings):
    images, texts = embeddings
    with pytest.raises(ValueError, match=r"texts \(12, 7\)"):
        flat_map(images, texts[:, :7])
    with pytest.raises(ValueError, match="no method 't-SNE'; there are PCA, UMAP"):
        flat_map(images, texts, "t-SNE")
