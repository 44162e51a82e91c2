"""A million pairs through the streaming loader, without a model: pairs per second, and constant memory."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from itertools import islice

import datasets
from PIL import Image

from experiments.benchmarks import measure
from vladva_kit.data.streaming import stream_pairs

SHARDS = 64


def synthetic_rows(shards: list[int], per_shard: int) -> Iterator[dict]:
    """Yield rows with a small image, a short caption and a long caption."""
    png = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 80, 40)).save(png, "PNG")
    for shard in shards:
        for row in range(per_shard):
            long = "a red dog on a mat " * (6 + row % 9)
            yield {"image": png.getvalue(), "short": f"a dog {shard} {row}", "long": long}


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(__doc__, pairs=1_000_000, batch=1000, window=8000, workers=0, samples=10)
    arguments = {"shards": list(range(SHARDS)), "per_shard": -(-args.pairs // SHARDS)}
    rows = datasets.IterableDataset.from_generator(synthetic_rows, gen_kwargs=arguments)
    stream = stream_pairs(rows, window=args.window, workers=args.workers)
    stream.batch_size = args.batch
    n_batches = args.pairs // args.batch
    start, samples, seen = time.perf_counter(), [], 0
    for number, item in enumerate(islice(stream.loader(), n_batches), start=1):
        seen += len(item["batch"])
        if number % max(1, n_batches // args.samples) == 0:
            seconds = time.perf_counter() - start
            samples.append({"pairs": seen, "seconds": seconds, "peak_gb": measure.peak_memory("cpu")})
    rate = seen / (time.perf_counter() - start)
    growth = samples[-1]["peak_gb"] / samples[0]["peak_gb"] - 1
    lines = [[f"{one['pairs']:,}", f"{one['seconds']:.1f}", f"{one['peak_gb']:.3f}"] for one in samples]
    parts = [
        f"{seen:,} pairs in batches of {args.batch}, windows of {args.window}, {args.workers} workers.",
        measure.table([["pairs", "seconds", "peak GB of the process"], *lines]),
        f"{rate:.0f} pairs per second, in a single run.",
        measure.target("Growth of the peak memory from the first to the last sample", growth, at_most=0.1),
    ]
    measure.write_page(args.out, "loader", __doc__, parts, {"samples": samples, "rate": rate, "growth": growth})


if __name__ == "__main__":
    main()
