"""A million pairs through the streamed loader, with no model behind it: pairs a second, and memory that stays flat."""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Iterator
from itertools import islice

import datasets
from PIL import Image

from experiments.benchmarks.measure import arguments, goal, page, table
from vladva_kit.data.streaming import stream_pairs

SHARDS = 64


def made(shards: list[int], each: int) -> Iterator[dict]:
    """Synthetic rows: a small picture, a short and a long caption."""
    held = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 80, 40)).save(held, "PNG")
    for shard in shards:
        for at in range(each):
            yield {
                "image": held.getvalue(),
                "short": f"a dog {shard} {at}",
                "long": "a red dog on a mat " * (6 + at % 9),
            }


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(__doc__, pairs=1_000_000, batch=1000, window=8000, workers=0, stops=10)
    each = -(-chosen.pairs // SHARDS)
    rows = datasets.IterableDataset.from_generator(made, gen_kwargs={"shards": list(range(SHARDS)), "each": each})
    stream = stream_pairs(rows, window=chosen.window, workers=chosen.workers)
    stream.batch_size = chosen.batch
    batches = chosen.pairs // chosen.batch
    begun, told, seen = time.perf_counter(), [], 0
    for number, item in enumerate(islice(stream.loader(), batches), start=1):
        seen += len(item["batch"])
        if number % max(1, batches // chosen.stops) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            told.append({"pairs": seen, "seconds": time.perf_counter() - begun, "peak_gb": peak})
    rate = seen / (time.perf_counter() - begun)
    growth = told[-1]["peak_gb"] / told[0]["peak_gb"] - 1
    page(chosen.out, "loader", __doc__, [
        f"{seen} pairs in batches of {chosen.batch}, windows of {chosen.window}, {chosen.workers} workers.",
        table([["pairs", "seconds", "peak GB of the process"],
               *[[str(t["pairs"]), f"{t['seconds']:.1f}", f"{t['peak_gb']:.3f}"] for t in told]]),
        f"{rate:.0f} pairs a second. One run.",
        goal("Memory at the last stop, over the first's, beyond 1", growth, 0.1, least=False),
    ], {"stops": told, "rate": rate, "growth": growth})  # fmt: skip


if __name__ == "__main__":
    main()
