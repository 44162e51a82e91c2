"""Find where word order is lost: in an encoder, or in the match between them (LABCLIP: Koishigarina et al. 2025).

A linear probe shows what one encoder's embeddings say; one linear map shows what the match between encoders misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vladva_kit.analysis.space import same_space


@dataclass(frozen=True)
class OrderLoss:
    """Held-out accuracies, 0 to 1: both probes, and the match of images with captions before and after the map.

    High probes with a low match mean that the order is in both embeddings, but not in the same directions.
    """

    image_probe: float
    text_probe: float
    probe_chance: float  # share of the most frequent label
    matched: float
    matched_after_map: float
    matrix: np.ndarray = field(repr=False)  # (dim, dim), applied to text embeddings


def linear_probe(embeddings: Any, labels: Sequence[Any] | np.ndarray, held_out: Any, ridge: float = 1e-3) -> np.ndarray:
    """Predict the labels of held-out rows with a linear classifier fitted on the others: (n_held_out,) labels.

        (linear_probe(images, relations, held_out) == relations[held_out]).mean()

    embeddings: (n, dim); held_out: (n,) bool. Least squares on one-hot labels and a constant, with a ridge penalty.
    Raises ValueError for shapes that do not match, a label that occurs in held-out rows only, or an empty part.
    """
    labels, held_out = np.asarray(labels), _mask(held_out, len(labels))
    embeddings, _ = same_space(embeddings, embeddings)
    if len(embeddings) != len(labels):
        raise ValueError(f"{len(embeddings)} embeddings for {len(labels)} labels: pass one label each")
    classes = np.unique(labels[~held_out])
    unseen = sorted(set(labels[held_out].tolist()) - set(classes.tolist()))
    if unseen:
        raise ValueError(f"the label {unseen[0]!r} is held out only: keep some of its rows for the fit")
    rows = np.hstack([embeddings, np.ones((len(embeddings), 1))])
    weights = least_squares(rows[~held_out], (labels[~held_out, None] == classes).astype(float), ridge)
    return classes[(rows[held_out] @ weights).argmax(axis=1)]


def linear_map(texts: Any, images: Any, ridge: float = 1e-3) -> np.ndarray:
    """Fit one matrix that maps text embeddings to those of their images: (dim, dim), for `texts @ matrix`.

    Raises ValueError if the shapes differ.
    """
    images, texts = same_space(images, texts)
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images for {len(texts)} texts: pass each image's own text in the same row")
    return least_squares(texts, images, ridge)


def least_squares(inputs: np.ndarray, targets: np.ndarray, ridge: float) -> np.ndarray:
    """Minimize |inputs @ w - targets|² + ridge · |w|²: `least_squares(texts, images, 1e-3)`."""
    return np.linalg.solve(inputs.T @ inputs + ridge * np.eye(inputs.shape[1]), inputs.T @ targets)


def order_loss(
    images: Any, texts: Any, swapped: Any, labels: Sequence[Any] | np.ndarray, held_out: Any, ridge: float = 1e-3
) -> OrderLoss:
    """Measure where the order of words is lost; everything is fitted on the rows that are not held out.

        order_loss(images, texts, swapped, ["left", "right", …], held_out).matched_after_map

    images, texts, swapped: (n, dim), an image, its caption, and that caption with two words exchanged; labels: (n,),
    what the order decides, such as the relation. A match is right if the caption scores strictly higher than the
    swapped one. Rows of one scene belong on the same side of `held_out`.
    Raises ValueError as `linear_probe` and `linear_map` do.
    """
    labels, held_out = np.asarray(labels), _mask(held_out, len(labels))
    images, texts = same_space(images, texts)
    _, swapped = same_space(images, swapped)
    matrix = linear_map(texts[~held_out], images[~held_out], ridge)
    image_probe, text_probe = (
        float((linear_probe(rows, labels, held_out, ridge) == labels[held_out]).mean()) for rows in (images, texts)
    )
    _, counts = np.unique(labels[held_out], return_counts=True)
    held = images[held_out], texts[held_out], swapped[held_out]
    mapped = held[0], _unit(held[1] @ matrix), _unit(held[2] @ matrix)
    chance = float(counts.max() / counts.sum())
    return OrderLoss(image_probe, text_probe, chance, _matched(*held), _matched(*mapped), matrix)


def _matched(images: np.ndarray, texts: np.ndarray, swapped: np.ndarray) -> float:
    return float(((images * texts).sum(1) > (images * swapped).sum(1)).mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _mask(held_out: Any, n: int) -> np.ndarray:
    mask = np.asarray(held_out)
    if mask.dtype != bool or mask.shape != (n,) or mask.all() or not mask.any():
        raise ValueError(f"held_out is {mask.dtype} {mask.shape} for {n} labels: pass a bool each, some of both values")
    return mask
