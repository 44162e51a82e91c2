"""Correlate the next-token entropy of hand-written prompts with retrieval before training (paper, figures 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import numpy as np

from vladva_kit.analysis.summary import probe_images, probe_texts
from vladva_kit.data.pairs import Pair
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.evaluation.encoding import all_dots
from vladva_kit.evaluation.metrics import ranks
from vladva_kit.models.load import LVLM

# Fifty pairs of an image prompt and a text prompt, in emoji-llava's vocabulary.
_EMOJI = """
summarize the provided {} in one word: | summarize the {} in one word: | summarize the {}: |
summarize the provided {}: | summarize {} in one word: | describe the {} in one word: |
describe the provided {} in one word: | describe the {}: | describe the {} in detail: |
describe the provided {} in detail: | say the {} in one word: | say the {} in other words: | say what the {} shows: |
say what is in the {}: | say what is in the {} in one word: | say in one word what the {} shows: |
say in one word what is in the {}: | say it in one word: | say it in other words: | say it: | in one word: |
in one word, the {} shows | in one word, the {} is | in one word, it is | one word: | one word of the {}: |
what is in the {}? | what is in the {} in one word? | what is the {} of? | what is the {}? | what is it? |
what is there? | what is there in the {}? | what is it of? | what things are in the {}? | what kind of {} is it? |
what kind of thing is in the {}? | how many things are in the {}? | what is the ground? | what color is it? |
provide a short caption: | provide a short caption of the {}: | provide a caption in one word: | provide one word: |
provide one word of the {}: | a caption of the {}: | the {} shows | the {} is of | the {} in one word: | it is a {} of
"""

# Fifty in plain English, for other LVLMs.
_PLAIN = """
Summarize the provided {} in one word: | Summarize the above {} in one word: | Summarize this {} in one word: |
Summary of the above {} in one word: | Summary above {} in one word: | Summarize the {} in a single word: |
Summarize the {} in two words: | Summarize the {} in a few words: | Summarize the {} in one sentence: |
Summarize the {}: | Describe the {} in one word: | Describe this {} in one word: | Describe the {} in one sentence: |
Describe the {} briefly: | Describe the {} in detail: | Describe what the {} is about in one word: |
Describe the main subject of the {} in one word: | What is in the {}? Answer in one word: |
What is shown in the {}? Answer in one word: | What is the {} about? Answer in one word: |
What is the main subject of the {}? | What does the {} show? | What word describes the {} best? |
Which one word fits the {} best? | Give one word for the {}: | Give a title for the {}: |
Give a title of one word for the {}: | Give a short caption for the {}: | Give a keyword for the {}: |
Give the most important word for the {}: | Name the {} in one word: | Name the main thing in the {}: |
Name the category of the {}: | Name the scene in the {} in one word: | Express the {} in one word: |
Express the meaning of the {} in one word: | Represent the {} in one word: | Represent the {} for retrieval: |
Represent the given {}: | Compress the {} into one word: | Condense the {} into one word: | Encode the {} in one word: |
Label the {} with one word: | Tag the {} with one word: | Think of the {} and say one word: |
Say what you see in the {} in one word: | In one word, the {} is about: | In one word, the {} shows: |
The {} in one word: | This {} means in one word:
"""


def _pairs(templates: str) -> tuple[tuple[str, str], ...]:
    """Fill in "image" and "text" for each template; templates are separated by "|"."""
    return tuple((one.strip().format("image"), one.strip().format("text")) for one in templates.split("|"))


EMOJI_PROMPTS = _pairs(_EMOJI)
PLAIN_PROMPTS = _pairs(_PLAIN)
# emoji-llava was pretrained to answer this pair with a noun, which no other prompt was. It stands in for the
# instruction following of a large LVLM, so its retrieval says nothing about its entropy.
PRETRAINED_PROMPTS = EMOJI_PROMPTS[:1]


def study_prompts(
    lvlm: LVLM,
    pairs: Sequence[Pair],
    prompts: Sequence[tuple[str, str]],
    pretrained: Collection[tuple[str, str]] = (),
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the entropy and R@1 before training of (image prompt, text prompt) pairs and correlate the two, for JSON.

        pairs = vk.load_pairs(vk.sample("emoji_pairs"), "test")
        study_prompts(vk.load_lvlm("emoji-llava"), pairs, EMOJI_PROMPTS, PRETRAINED_PROMPTS)

    `pretrained` prompts, which the model was trained to answer, are measured and marked, and not in the correlations.
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
            "pretrained": (image_prompt, text_prompt) in pretrained,
            "image_entropy": float(image.entropy.mean()),
            "text_entropy": float(text.entropy.mean()),
            "image_to_text": ranks(scores, positives).recall(1),
            "text_to_image": ranks(scores.T, positives).recall(1),
        }
        results.append(result)
        mean_entropy = (result["image_entropy"] + result["text_entropy"]) / 2
        mean_recall = (result["image_to_text"] + result["text_to_image"]) / 2
        if not result["pretrained"]:
            entropy.append(mean_entropy)
            recall.append(mean_recall)
        log(f"{image_prompt}  {mean_entropy:.2f} nats, R@1 {mean_recall:.1f} %")
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
