"""Score the benchmarks' captions without their images: what a model can gain without looking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

import vladva_kit as vk
from experiments.paper.measures import measures_of
from vladva_kit.cli.demo import evaluate_all

BLANK = Image.new("RGB", (64, 64), "white")


@dataclass(frozen=True)
class BlindScorer:
    """Give a caption the same score with every image: `BlindScorer(shorter).score_pairs(images, captions)`."""

    score: Callable[[Sequence[str]], np.ndarray]

    def score_pairs(self, images: Sequence[Any], captions: Sequence[str]) -> np.ndarray:
        """Score the captions: (n,)."""
        return self.score(captions)

    def similarity(self, images: Sequence[Any], captions: Sequence[str]) -> np.ndarray:
        """Score the captions once per image: (n_images, n_captions)."""
        return np.tile(self.score(captions), (len(images), 1))

    def check_size(self, images: Sequence[Any], captions: Sequence[str]) -> None:
        """Accept any size: a score costs no forward pass over an image."""


def shorter(captions: Sequence[str]) -> np.ndarray:
    """Prefer the caption with fewer words: `shorter(["a dog", "a big dog"])` -> `[-2, -3]`."""
    return -np.array([len(caption.split()) for caption in captions], dtype=float)


def likelihood_without_image(lvlm: vk.LVLM, captions: Sequence[str]) -> np.ndarray:
    """Return the mean log-probability of captions after the same request without an image: (n,).

    likelihood_without_image(vk.load_lvlm("emoji-llava"), ["a dog", "dog a a"])
    """
    images, captions = [BLANK] * len(captions), list(captions)
    with_image, difference = (
        vk.likelihood(lvlm, images, captions, paired=True, alpha=alpha, progress=False) for alpha in (0.0, 1.0)
    )
    return (with_image - difference).numpy()


def blind_baselines(lvlm: vk.LVLM) -> dict[str, dict[str, Any]]:
    """Evaluate SugarCrepe and Winoground without images; return measures per case, as in a run's record.

    blind_baselines(vk.load_lvlm("emoji-llava"))["shorter caption"]["measures"]
    """
    baselines = {"likelihood without the image": lambda captions: likelihood_without_image(lvlm, captions)}
    baselines["shorter caption"] = shorter
    evaluate = partial(evaluate_all, generation=False, retrieval=False, log=lambda message: None)
    measures = {name: measures_of(evaluate(BlindScorer(score))) for name, score in baselines.items()}
    return {
        name: {"measures": {key: asdict(measure) for key, measure in found.items()}} for name, found in measures.items()
    }
