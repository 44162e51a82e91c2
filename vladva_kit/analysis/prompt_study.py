"""Correlate the next-token entropy of hand-written prompts with their zero-shot retrieval (paper, figures 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from vladva_kit.analysis.summary import probe_images, probe_texts
from vladva_kit.data.pairs import Pair
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.evaluation.encoding import all_dots
from vladva_kit.evaluation.metrics import ranks
from vladva_kit.models.load import LVLM


def study_prompts(
    lvlm: LVLM,
    pairs: Sequence[Pair],
    prompts: Sequence[tuple[str, str]],
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the entropy and zero-shot R@1 of (image prompt, text prompt) pairs and correlate the two, for JSON.

        study_prompts(load_lvlm("emoji-llava"), load_pairs(sample("emoji_pairs"), "test"), EMOJI_PROMPTS)

    Returns {"n": pairs, "prompts": one dict per prompt pair, "correlations": {"spearman": …, "pearson": …}}. Entropies
    are means in nats, R@1 is in percent with ties counted as misses, and each image's caption is its first short one.
    The correlations, between the means over both directions, are None if either value is constant. Raises ValueError
    for a pair without a short caption.
    """
    missing = next((pair.where or str(index) for index, pair in enumerate(pairs) if not pair.short), None)
    if missing is not None:
        raise ValueError(f"pair {missing} has no short caption: retrieval needs one for each image")
    images, captions = [pair.load_image() for pair in pairs], [pair.short for pair in pairs]
    positives = np.array([[one == other for other in captions] for one in captions])  # images may share a caption
    results, entropy, recall = [], [], []
    for image_prompt, text_prompt in prompts:
        embedder = Embedder(lvlm, image_prompt, text_prompt)
        image, text = probe_images(embedder, images), probe_texts(embedder, captions)
        scores = all_dots(image.embeddings, text.embeddings)
        result = {
            "image_prompt": image_prompt,
            "text_prompt": text_prompt,
            "image_entropy": float(image.entropy.mean()),
            "text_entropy": float(text.entropy.mean()),
            "image_to_text": ranks(scores, positives).recall(1),
            "text_to_image": ranks(scores.T, positives).recall(1),
        }
        results.append(result)
        entropy.append((result["image_entropy"] + result["text_entropy"]) / 2)
        recall.append((result["image_to_text"] + result["text_to_image"]) / 2)
        log(f"{image_prompt}  {entropy[-1]:.2f} nats, R@1 {recall[-1]:.1f} %")
    varied = len(set(entropy)) > 1 and len(set(recall)) > 1
    correlations = {
        method: correlation(entropy, recall, method) if varied else None for method in ("spearman", "pearson")
    }
    return {"n": len(pairs), "prompts": results, "correlations": correlations}


def correlation(x: Sequence[float], y: Sequence[float], method: Literal["spearman", "pearson"]) -> dict[str, float]:
    """Compute a correlation with its 95 % bootstrap interval: `correlation(x, y, "spearman")["low"]`.

    Returns {"value", "low", "high", "n"}. Points are resampled as pairs; resamples in which either value is constant
    are skipped. Raises ValueError for different lengths, constant values or another method.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if method not in ("spearman", "pearson"):
        raise ValueError(f"unknown method '{method}'; choose spearman or pearson")
    if x.shape != y.shape or x.ndim != 1 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError(f"shapes {x.shape} and {y.shape}: give two sequences of equal length, neither constant")
    samples = np.random.default_rng(0).integers(len(x), size=(2000, len(x)))
    values = [_coefficient(x[i], y[i], method) for i in samples if np.ptp(x[i]) and np.ptp(y[i])]
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": _coefficient(x, y, method), "low": float(low), "high": float(high), "n": len(x)}


def _coefficient(x: np.ndarray, y: np.ndarray, method: str) -> float:
    if method == "spearman":
        x, y = _rank(x), _rank(y)
    return float(np.corrcoef(x, y)[0, 1])


def _rank(values: np.ndarray) -> np.ndarray:
    """Rank from 0; tied values get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]
