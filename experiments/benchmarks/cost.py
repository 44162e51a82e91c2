"""Time of a cached step against batch size, caption length and image tokens, with a straight-line fit."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np

from experiments.benchmarks import measure
from experiments.benchmarks.shapes import sample_pairs, trainable_embedder
from vladva_kit.training.collator import Collator
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.trainer import step_losses


def fit_line(xs: list[float], ys: list[float]) -> tuple[float, float, float]:
    """Return slope, intercept and R² of the least-squares line: `fit_line([1, 2, 3], [2, 4, 6])` -> (2.0, 0.0, 1.0)."""
    slope, intercept = np.polyfit(xs, ys, 1)
    residuals = np.asarray(ys) - (slope * np.asarray(xs) + intercept)
    return float(slope), float(intercept), float(1 - residuals.var() / np.var(ys))


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(
        __doc__, shape="smolvlm-2-layers", rows=32, device="cpu", dtype="float32", batches=[32, 64, 128, 256],
        caption_tokens=[30, 60, 120, 240], image_sides=[64, 96, 128, 160], batch=64,
    )  # fmt: skip
    embedder = trainable_embedder(args.shape, args.device, args.dtype)
    pairs = sample_pairs(max([args.batch, *args.batches]))

    def step(embedder, batch_size, caption_tokens=30):
        captioned = [replace(pair, long=" ".join(["dog"] * caption_tokens)) for pair in pairs[:batch_size]]
        batch = Collator(embedder)(captioned)["batch"]
        return lambda: cached_step(step_losses, embedder, batch, rows=args.rows)

    sweeps = {
        "batch size": {n: step(embedder, n) for n in args.batches},
        "caption tokens": {n: step(embedder, args.batch, n) for n in args.caption_tokens},
        "image tokens": {},
    }
    for side in args.image_sides:
        other = trainable_embedder(args.shape, args.device, args.dtype, side)
        ids = Collator(other)(pairs[:1])["batch"].images.inputs["input_ids"]
        tokens = int((ids == other.lvlm.model.config.image_token_id).sum())
        sweeps["image tokens"][tokens] = step(other, args.batch)
    parts, values = [], {}
    for name, steps in sweeps.items():
        seconds = measure.time_interleaved(steps, args.runs)
        medians = [statistics.median(times) for times in seconds.values()]
        slope, _, r2 = fit_line([float(n) for n in steps], medians)
        parts.append(
            measure.table([[name, "seconds"], *[[str(n), f"{m:.3g}"] for n, m in zip(steps, medians, strict=True)]])
        )
        parts.append(f"Slope: {1000 * slope:.3g} ms per unit of {name}, R² {r2:.4f}.")
        values[name] = {"seconds": seconds, "slope": slope, "r2": r2}
    measure.write_page(args.out, "cost", __doc__, [f"{args.shape}, chunks of {args.rows} rows.", *parts], values)


if __name__ == "__main__":
    main()
