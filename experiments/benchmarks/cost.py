"""Seconds of a cached step against batch size, caption length and image tokens: straight lines, with their slopes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from experiments.benchmarks.measure import arguments, median, page, table, turns
from experiments.benchmarks.shapes import learning, scenes, shaped
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.trainer import Collator


def line(xs: list[float], ys: list[float]) -> tuple[float, float, float]:
    """Slope, intercept and R² of the least-squares line: line([1, 2, 3], [2, 4, 6]) -> (2.0, 0.0, 1.0)."""
    slope, intercept = np.polyfit(xs, ys, 1)
    rest = np.asarray(ys) - (slope * np.asarray(xs) + intercept)
    return float(slope), float(intercept), float(1 - rest.var() / np.var(ys))


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(
        __doc__, shape="smolvlm-2-layers", rows=32, device="cpu", dtype="float32", batches=[32, 64, 128, 256],
        words=[30, 60, 120, 240], sides=[64, 96, 128, 160], batch=64,
    )  # fmt: skip
    dtype = getattr(torch, chosen.dtype)
    embedder = learning(shaped(chosen.shape, chosen.device, dtype))
    pairs = scenes(max([chosen.batch, *chosen.batches]))
    worded = [replace(pair, long=" ".join(["dog"] * 30)) for pair in pairs]

    def way(who, data):
        batch = Collator(who)(data)["batch"]
        return lambda: cached_step(who, batch, rows=chosen.rows)

    groups = {
        "batch size": {n: way(embedder, worded[:n]) for n in chosen.batches},
        "caption tokens": {},
        "image tokens": {},
    }
    for n in chosen.words:
        longer = [replace(pair, long=" ".join(["dog"] * n)) for pair in pairs[: chosen.batch]]
        groups["caption tokens"][n] = way(embedder, longer)
    for side in chosen.sides:
        other = learning(shaped(chosen.shape, chosen.device, dtype, side))
        batch = Collator(other)(worded[:1])["batch"]
        tokens = int((batch.images.inputs["input_ids"] == other.lvlm.model.config.image_token_id).sum())
        groups["image tokens"][tokens] = way(other, worded[: chosen.batch])
    parts, values = [], {}
    for name, ways in groups.items():
        seconds = turns({str(n): one for n, one in ways.items()}, chosen.runs)
        medians = [median(own) for own in seconds.values()]
        slope, _, fit = line([float(n) for n in ways], medians)
        parts.append(table([[name, "seconds"], *[[n, f"{one:.3g}"] for n, one in zip(seconds, medians, strict=True)]]))
        parts.append(f"Against {name}: {1000 * slope:.3g} ms for each more, R² {fit:.4f}.")
        values[name] = {"seconds": seconds, "slope": slope, "r2": fit}
    page(chosen.out, "cost", __doc__, [f"{chosen.shape}, chunks of {chosen.rows} rows.", *parts], values)


if __name__ == "__main__":
    main()
