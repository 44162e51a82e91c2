"""The space of the embeddings: over how many directions they spread, and how far the modalities lie apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Spectrum:
    """How the variance of embeddings is shared among principal components."""

    variances: np.ndarray = field(repr=False)  # (min(n, dim),) of the components, largest first
    cumulative: np.ndarray = field(repr=False)  # the part that the first 1, 2, … hold, up to 1
    effective_rank: float  # perplexity of the shares (Roy & Vetterli 2007): 1 for a line, dim for a ball

    def components_for(self, part: float) -> int:
        """How many components hold this part of the variance: `spectrum(embeddings).components_for(0.9)`."""
        return int(np.searchsorted(self.cumulative, part - 1e-9) + 1)


@dataclass(frozen=True)
class ModalityGap:
    """How far pictures and captions lie apart as two clouds (Liang et al. 2022, 2203.02053)."""

    vector: np.ndarray = field(repr=False)  # (dim,) the images' mean minus the texts'
    distance: float  # its length; 0 to 2 for unit vectors


def spectrum(embeddings: np.ndarray) -> Spectrum:
    """The variance of embeddings (n, dim) along their principal components: `spectrum(embeddings).effective_rank`.

    They are centerd first. Raises ValueError for fewer than two rows, or rows that are all the same.
    """
    values = _matrix(embeddings, "embeddings", rows=2)
    variances = np.linalg.svd(values - values.mean(0), compute_uv=False) ** 2 / (len(values) - 1)
    total = variances.sum()
    if total <= 1e-12 * max(1.0, float((values**2).sum())):
        raise ValueError(f"all {len(values)} embeddings are the same: there is no variance to share out")
    shares = variances / total
    entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum()
    return Spectrum(variances, np.cumsum(shares), float(np.exp(entropy)))


def modality_gap(images: np.ndarray, texts: np.ndarray) -> ModalityGap:
    """The gap between embeddings of pictures (n, dim) and of captions (m, dim): `modality_gap(images, texts).distance`.

    Raises ValueError for another number of dimensions.
    """
    images, texts = _matrix(images, "images", rows=1), _matrix(texts, "texts", rows=1)
    if images.shape[1] != texts.shape[1]:
        raise ValueError(f"images have {images.shape[1]} dimensions and texts {texts.shape[1]}: embed both with one")
    vector = images.mean(0) - texts.mean(0)
    return ModalityGap(vector, float(np.linalg.norm(vector)))


def _matrix(values: np.ndarray, name: str, rows: int) -> np.ndarray:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < rows or not np.isfinite(matrix).all():
        raise ValueError(f"{name} have shape {matrix.shape}, or hold NaN; needed is (n, dim) with n of {rows} or more")
    return matrix
