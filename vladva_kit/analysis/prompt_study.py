"""Do prompts whose next token is less certain retrieve better, before any training? (paper, figures 2 and 3)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import vladva_kit as vk
from vladva_kit.analysis import read_images, read_texts
from vladva_kit.analysis.prompt_lists import EMOJI_PROMPTS
from vladva_kit.data.pairs import Pair, load_pairs
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.evaluation.encoding import all_dots
from vladva_kit.evaluation.metrics import ranks
from vladva_kit.models.load import LVLM, load_lvlm


@dataclass(frozen=True)
class PromptResult:
    """One pair of prompts: entropies in nats, averaged over pictures and captions; R@1 in percent."""

    image_prompt: str
    text_prompt: str
    image_entropy: float
    text_entropy: float
    image_to_text: float
    text_to_image: float

    @property
    def entropy(self) -> float:
        """The mean of both towers'."""
        return (self.image_entropy + self.text_entropy) / 2

    @property
    def recall(self) -> float:
        """R@1, the mean of both ways, in percent."""
        return (self.image_to_text + self.text_to_image) / 2


@dataclass(frozen=True)
class Correlation:
    """A coefficient, −1 to 1, with its 95 % bootstrap interval over the n pairs of values."""

    value: float
    low: float
    high: float
    n: int


def study_prompts(
    lvlm: LVLM,
    pairs: Sequence[Pair],
    prompts: Sequence[tuple[str, str]],
    say: Callable[[str], None] = lambda _: None,
) -> list[PromptResult]:
    """Entropy and zero-shot R@1 of each pair of prompts, from one forward a picture and one a caption.

        study_prompts(load_lvlm("emoji-llava"), load_pairs(sample("emoji_pairs"), "test"), EMOJI_PROMPTS)

    Each picture is asked for by its first short caption; ties are wrong. Raises ValueError for a pair that lacks one.
    """
    lacking = next((pair.where or str(place) for place, pair in enumerate(pairs) if not pair.short), None)
    if lacking is not None:
        raise ValueError(f"pair {lacking} has no short caption: retrieval needs one for each picture")
    images, captions = [pair.load_image() for pair in pairs], [pair.short for pair in pairs]
    # captions that several pictures share are right for each of them
    right = np.array([[one == other for other in captions] for one in captions])
    results = []
    for image_words, text_words in prompts:
        embedder = Embedder(lvlm, image_words, text_words)
        pictured, written = read_images(embedder, images), read_texts(embedder, captions)
        scores = all_dots(pictured.embeddings, written.embeddings)
        results.append(
            PromptResult(
                image_words,
                text_words,
                float(pictured.entropy.mean()),
                float(written.entropy.mean()),
                ranks(scores, right).recall(1),
                ranks(scores.T, right).recall(1),
            )
        )
        say(f"{image_words}  {results[-1].entropy:.2f} nats, R@1 {results[-1].recall:.1f}")
    return results


def study_emoji_prompts(n: int = 300) -> dict[str, Any]:
    """The study of EMOJI_PROMPTS on emoji-llava and `n` test pictures, for JSON: {"n", "prompts", "correlations"}."""
    pairs = load_pairs(vk.sample("emoji_pairs"), "test")[:n]
    return as_dict(study_prompts(load_lvlm("emoji-llava"), pairs, EMOJI_PROMPTS), len(pairs))


def as_dict(results: Sequence[PromptResult], n: int) -> dict[str, Any]:
    """Results and their correlations as plain values; the correlations are None where all values are the same."""
    entropy, recall = [one.entropy for one in results], [one.recall for one in results]
    varied = len(set(entropy)) > 1 and len(set(recall)) > 1
    methods = ("spearman", "pearson")
    return {
        "n": n,
        "prompts": [asdict(one) for one in results],
        "correlations": {name: asdict(correlation(entropy, recall, name)) if varied else None for name in methods},
    }


def correlation(
    x: Sequence[float], y: Sequence[float], method: str, seed: int = 0, resamples: int = 2000
) -> Correlation:
    """Spearman's or Pearson's coefficient with a percentile bootstrap interval: `correlation(x, y, "spearman").low`.

    Pairs of values are drawn anew together; a draw in which either is constant has no coefficient and is left out.
    Raises ValueError for lengths that differ, constant values, or another method.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if method not in ("spearman", "pearson"):
        raise ValueError(f"method is '{method}'; it must be 'spearman' or 'pearson'")
    if x.shape != y.shape or x.ndim != 1 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError(
            f"values of shapes {x.shape} and {y.shape}; needed are two rows of one length, neither constant"
        )
    drawn = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    values = [_coefficient(x[rows], y[rows], method) for rows in drawn if np.ptp(x[rows]) and np.ptp(y[rows])]
    low, high = np.quantile(values, [0.025, 0.975])
    return Correlation(_coefficient(x, y, method), float(low), float(high), len(x))


def _coefficient(x: np.ndarray, y: np.ndarray, method: str) -> float:
    if method == "spearman":
        x, y = _ranked(x), _ranked(y)
    return float(np.corrcoef(x, y)[0, 1])


def _ranked(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[place]
