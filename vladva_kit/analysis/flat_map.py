"""Embeddings on a plane, to look at: PCA keeps variance, UMAP keeps neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

METHODS = ("PCA", "UMAP")


@dataclass(frozen=True)
class FlatMap:
    """Places of pictures and captions on a plane, (n, 2) each, and what its two axes are."""

    images: np.ndarray
    texts: np.ndarray
    axes: tuple[str, str]


def flat_map(images: Any, texts: Any, method: str = "PCA", seed: int = 0) -> FlatMap:
    """Embeddings (n, dim) of pictures and of captions on one plane: `flat_map(images, texts, "UMAP").images`.

    PCA keeps as much of the variance of both together as a plane can; UMAP (McInnes et al. 2018, by cosine) keeps who
    is near whom, and its axes mean nothing. Raises ValueError for shapes that do not fit or another method,
    ImportError where umap-learn is not installed.
    """
    images, texts = (np.asarray(vectors, dtype=np.float64) for vectors in (images, texts))
    if images.ndim != 2 or images.shape[1:] != texts.shape[1:] or len(images) + len(texts) < 3:
        raise ValueError(f"images {images.shape}, texts {texts.shape}; needed are (n, dim) of both, 3 rows at least")
    both = np.concatenate([images, texts])
    if method == "PCA":
        places, axes = _principal(both)
    elif method == "UMAP":
        places, axes = _umap(both, seed), ("UMAP 1 (no unit)", "UMAP 2 (no unit)")
    else:
        raise ValueError(f"no method '{method}'; there are {', '.join(METHODS)}")
    return FlatMap(places[: len(images)], places[len(images) :], axes)


def _principal(vectors: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    centerd = vectors - vectors.mean(0)
    _, lengths, directions = np.linalg.svd(centerd, full_matrices=False)
    directions = directions[:2]
    largest = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[[0, 1], largest])[:, None]  # a direction has two signs: the same one
    shares = lengths[:2] ** 2 / max((lengths**2).sum(), 1e-12)
    return centerd @ directions.T, tuple(f"principal component {i + 1} ({shares[i]:.0%} of variance)" for i in range(2))


def _umap(vectors: np.ndarray, seed: int) -> np.ndarray:
    try:
        import umap
    except ImportError as error:
        raise ImportError("UMAP needs umap-learn: pip install 'vladva-kit[notebooks]', or choose PCA") from error
    neighbors = min(15, len(vectors) - 1)
    return umap.UMAP(n_neighbors=neighbors, metric="cosine", random_state=seed, n_jobs=1).fit_transform(vectors)
