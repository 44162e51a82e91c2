"""Recall at COCO's size, 5,000 images and 25,000 captions: in blocks, and from one matrix of all scores.

Times are medians; the peak is that of one more run (tracemalloc, to which numpy reports its allocations). Both methods
must rank every query the same.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks import measure
from vladva_kit.evaluation.encoding import all_dots
from vladva_kit.evaluation.metrics import Ranks, ranks
from vladva_kit.evaluation.retrieval import ranks_in_blocks


def random_embeddings(images: int, captions: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors, some captions near each image: `random_embeddings(5000, 5, 1024)[1].shape` -> (25000, 1024).

    captions: per image.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((images, dim), dtype=np.float32)
    texts = np.repeat(vectors, captions, axis=0) + 5 * rng.standard_normal((images * captions, dim), dtype=np.float32)
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, texts))


def trace_peak(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return a function's result and the peak memory in GB that it allocates."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1] / 1e9
    finally:
        tracemalloc.stop()


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(__doc__, images=5000, captions=5, dim=1024)
    images, texts = random_embeddings(args.images, args.captions, args.dim)
    captions_of = [set(range(args.captions * i, args.captions * (i + 1))) for i in range(args.images)]
    image_of = [{i // args.captions} for i in range(len(texts))]

    def rank_in_blocks() -> tuple[Ranks, Ranks]:
        return ranks_in_blocks(images, texts, captions_of), ranks_in_blocks(texts, images, image_of)

    def rank_in_one_matrix() -> tuple[Ranks, Ranks]:
        scores = all_dots(images, texts)
        return ranks(scores, captions_of), ranks(scores.T, image_of)

    methods = {"blocks": rank_in_blocks, "one matrix": rank_in_one_matrix}
    ranked, peaks = {}, {}
    for name, method in methods.items():  # not timed, and the warm-up
        ranked[name], peaks[name] = trace_peak(method)
    for blocks, matrix in zip(*ranked.values(), strict=True):
        if not np.array_equal(blocks.rank, matrix.rank):
            raise AssertionError("the two methods rank differently")
    del ranked
    seconds = measure.time_interleaved(methods, args.runs, warmed_up=True)
    matrix_gb = len(images) * len(texts) * 4 / 1e9
    rows = [["method", measure.SECONDS, "peak GB"]]
    rows += [[name, measure.median_and_range(seconds[name]), f"{peaks[name]:.2f}"] for name in methods]
    targets = [
        measure.target("Peak of the blocks / size of the matrix", peaks["blocks"] / matrix_gb, at_most=1.0),
        measure.target(
            "Time in blocks / in one matrix", measure.median_ratio(seconds, "blocks", "one matrix"), at_most=1.1
        ),
    ]
    parts = [
        f"{len(images):,} images, {len(texts):,} captions, {args.dim} dimensions, both directions.",
        measure.table(rows),
        f"The matrix of scores takes {matrix_gb:.2f} GB in float32.",
        *targets,
    ]
    values = {"images": len(images), "captions": len(texts), "dim": args.dim, "matrix_gb": matrix_gb}
    measure.write_page(args.out, "recall", __doc__, parts, {"seconds": seconds, "peaks": peaks, **values})


if __name__ == "__main__":
    main()
