"""The embedding space: variance per direction, modality gap, and projections to two dimensions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

PROJECTION_METHODS = ("PCA", "UMAP")


@dataclass(frozen=True)
class Spectrum:
    """The variance of embeddings along their principal components."""

    variances: np.ndarray = field(repr=False)  # (min(n, dim),) largest first
    cumulative: np.ndarray = field(repr=False)  # share of the variance in the first 1, 2, … components, up to 1
    effective_rank: float  # exp(entropy) of the variance shares (Roy & Vetterli 2007): 1 for a line, dim for a ball

    def components_for(self, share: float) -> int:
        """Count the components that hold this share of the variance: `spectrum(embeddings).components_for(0.9)`."""
        return int(np.searchsorted(self.cumulative, share - 1e-9) + 1)


@dataclass(frozen=True)
class ModalityGap:
    """The offset between image and text embeddings (Liang et al. 2022, arXiv 2203.02053)."""

    vector: np.ndarray = field(repr=False)  # (dim,) mean image embedding minus mean text embedding
    distance: float  # length of the vector, 0 to 2 for unit-length embeddings


@dataclass(frozen=True)
class Projection:
    """Two-dimensional coordinates of image and text embeddings, each (n, 2), and the labels of the two axes."""

    images: np.ndarray
    texts: np.ndarray
    axes: tuple[str, str]


def spectrum(embeddings: Any) -> Spectrum:
    """Compute the principal-component variances of embeddings (n, dim): `spectrum(embeddings).effective_rank`.

    The embeddings are centered first. Raises ValueError for fewer than two rows or identical rows.
    """
    values = _matrix(embeddings, "embeddings", min_rows=2)
    variances = np.linalg.svd(values - values.mean(0), compute_uv=False) ** 2 / (len(values) - 1)
    total = variances.sum()
    if total <= 1e-12 * max(1.0, float((values**2).sum())):
        raise ValueError(f"all {len(values)} embeddings are identical, so their variance is 0: give different inputs")
    shares = variances / total
    entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum()
    return Spectrum(variances, np.cumsum(shares), float(np.exp(entropy)))


def modality_gap(images: Any, texts: Any) -> ModalityGap:
    """Measure the gap between image (n, dim) and text (m, dim) embeddings: `modality_gap(images, texts).distance`.

    Raises ValueError if the dimensions differ.
    """
    images, texts = same_space(images, texts)
    vector = images.mean(0) - texts.mean(0)
    return ModalityGap(vector, float(np.linalg.norm(vector)))


def project_2d(images: Any, texts: Any, method: str = "PCA", seed: int = 0) -> Projection:
    """Project image (n, dim) and text (m, dim) embeddings to a plane: `project_2d(images, texts, "UMAP").images`.

    PCA preserves the variance of both sets together. UMAP (McInnes et al. 2018, cosine metric) preserves neighbors, and
    its axes have no meaning. Raises ValueError for shapes that do not match, fewer than 3 embeddings or an unknown
    method, and ImportError if umap-learn is not installed.
    """
    images, texts = same_space(images, texts)
    both = np.concatenate([images, texts])
    if len(both) < 3:
        raise ValueError(f"{len(both)} embeddings: a projection needs at least 3 images and texts together")
    if method == "PCA":
        points, axes = _pca(both)
    elif method == "UMAP":
        points, axes = _umap(both, seed), ("UMAP 1 (no unit)", "UMAP 2 (no unit)")
    else:
        raise ValueError(f"unknown method '{method}'; choose {' or '.join(PROJECTION_METHODS)}")
    return Projection(points[: len(images)], points[len(images) :], axes)


def _pca(vectors: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    centered = vectors - vectors.mean(0)
    _, lengths, directions = np.linalg.svd(centered, full_matrices=False)
    directions = directions[:2]
    largest = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[[0, 1], largest])[:, None]  # fix the arbitrary sign of each direction
    shares = lengths[:2] ** 2 / max((lengths**2).sum(), 1e-12)
    first, second = (f"principal component {i + 1} ({shares[i]:.0%} of variance)" for i in range(2))
    return centered @ directions.T, (first, second)


def _umap(vectors: np.ndarray, seed: int) -> np.ndarray:
    try:
        import umap
    except ImportError as error:
        raise ImportError("UMAP needs umap-learn: pip install 'vladva-kit[notebooks]', or choose PCA") from error
    n_neighbors = min(15, len(vectors) - 1)
    return umap.UMAP(n_neighbors=n_neighbors, metric="cosine", random_state=seed, n_jobs=1).fit_transform(vectors)


def same_space(images: Any, texts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return image (n, dim) and text (m, dim) embeddings as float64: `images, texts = same_space(images, texts)`.

    Raises ValueError if they are not finite or if the dimensions differ.
    """
    images, texts = _matrix(images, "images"), _matrix(texts, "texts")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(f"images have {images.shape[1]} dimensions, texts {texts.shape[1]}: embed both with one model")
    return images, texts


def _matrix(values: Any, name: str, min_rows: int = 1) -> np.ndarray:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < min_rows or not np.isfinite(matrix).all():
        raise ValueError(f"{name}: shape {matrix.shape}, or not finite; give finite (n, dim) with n >= {min_rows}")
    return matrix
