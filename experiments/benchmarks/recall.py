"""Recall at COCO's size, 5,000 images and 25,000 captions: block by block, against one whole square of scores.

Seconds are medians; the peak is what one more run of each allocates at a time (tracemalloc, which numpy reports to).
Both ways must rank every query the same.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.measure import (
    arguments,
    explained,
    goal,
    page,
    profile_functions,
    ratio,
    spread,
    table,
    turns,
)
from vladva_kit.evaluation.encoding import all_dots
from vladva_kit.evaluation.metrics import Ranks, ranks
from vladva_kit.evaluation.retrieval import ranks_in_blocks


def embeddings(images: int, captions: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, a few captions near each image: `embeddings(5000, 5, 1024)` -> (5000, 1024), (25000, 1024)."""
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((images, dim), dtype=np.float32)
    texts = np.repeat(pictures, captions, axis=0) + 5 * rng.standard_normal((images * captions, dim), dtype=np.float32)
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (pictures, texts))


def in_blocks(images: np.ndarray, texts: np.ndarray, right: tuple[list, list]) -> tuple[Ranks, Ranks]:
    """As `evaluate_retrieval` ranks, both ways."""
    return ranks_in_blocks(images, texts, right[0]), ranks_in_blocks(texts, images, right[1])


def in_one_square(images: np.ndarray, texts: np.ndarray, right: tuple[list, list]) -> tuple[Ranks, Ranks]:
    """The same from one matrix of all scores, which is ranked by rows and by columns."""
    scores = all_dots(images, texts)
    return ranks(scores, right[0]), ranks(scores.T, right[1])


def watched(way: Callable[[], Any]) -> tuple[Any, float]:
    """What a way returns, and the GB that it holds at its worst, beside what was there before."""
    tracemalloc.start()
    try:
        return way(), tracemalloc.get_traced_memory()[1] / 1e9
    finally:
        tracemalloc.stop()


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(__doc__, images=5000, captions=5, dim=1024)
    pictures, texts = embeddings(chosen.images, chosen.captions, chosen.dim)
    own = [set(range(chosen.captions * i, chosen.captions * (i + 1))) for i in range(chosen.images)]
    given = pictures, texts, (own, [{i // chosen.captions} for i in range(len(texts))])
    ways = {"blocks": lambda: in_blocks(*given), "one square": lambda: in_one_square(*given)}
    found, peaks = {}, {}
    for name, way in ways.items():  # not timed: this is the warm-up too
        found[name], peaks[name] = watched(way)
    for by_block, by_square in zip(*found.values(), strict=True):
        if not np.array_equal(by_block.rank, by_square.rank):
            raise AssertionError("the two ways rank otherwise")
    del found
    seconds = turns(ways, chosen.runs, warm=True)
    square = len(pictures) * len(texts) * 4 / 1e9
    rows = [["way", "seconds", "peak GB"], *([name, spread(seconds[name]), f"{peaks[name]:.2f}"] for name in ways)]
    page(chosen.out, "recall", __doc__, [
        f"{len(pictures):,} images, {len(texts):,} captions, {chosen.dim} numbers each; both ways round.",
        table(rows),
        f"The square of scores alone, in float32, is {square:.2f} GB.",
        *explained([
            goal("Peak of the blocks / that square", peaks["blocks"] / square, 1.0, least=False),
            goal("Seconds in blocks / in one square", ratio(seconds, "blocks", "one square"), 1.1,
                 least=False),
        ], "the blocks", ways["blocks"], profile_functions),
    ], {"seconds": seconds, "peaks": peaks, "square": square, "images": len(pictures), "captions": len(texts),
        "dim": chosen.dim})  # fmt: skip


if __name__ == "__main__":
    main()
