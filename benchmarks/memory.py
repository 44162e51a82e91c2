"""Peak memory of a step against the batch size: cached, and the whole batch in one graph until it dies.

Each point is a process of its own. On a GPU it is the allocator's peak; on a CPU the process's, and since pictures and
their features lie in the same memory there, what they take is told apart.
"""

from __future__ import annotations

import resource
from argparse import Namespace

import torch

from benchmarks.measure import arguments, in_process, page, peak, table

FIELDS = ("batch", "rows", "shape", "device", "dtype", "limit_gb")


def one(batch: int, rows: int, shape: str, device: str, dtype: str, limit_gb: float) -> dict[str, float]:
    """Peak GB of a step; rows = 0 runs it in one graph. What the batch itself takes is "held"."""
    from benchmarks.shapes import learning, scenes, shaped
    from vladva_kit.cached_gradients import cached_step
    from vladva_kit.training import Collator, step_losses

    embedder = learning(shaped(shape, device, getattr(torch, dtype)))
    data = Collator(embedder)(scenes(batch))["batch"]
    if limit_gb and device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9), int(limit_gb * 1e9)))
    before = peak(device)
    if rows:
        cached_step(embedder, data, rows=rows)
    else:
        step_losses(embedder, data)["loss"].backward()
    pixels = data.images.inputs["pixel_values"]
    width = embedder.lvlm.model.config.text_config.hidden_size
    image_tokens = int((data.images.inputs["input_ids"] == embedder.lvlm.model.config.image_token_id).sum())
    held = pixels.numel() * pixels.element_size() + image_tokens * width * embedder.lvlm.model.dtype.itemsize
    return {"peak": peak(device), "before": before, "held": held / 1e9}


def point(chosen: Namespace, batch: int, rows: int) -> dict[str, float] | None:
    """One point in a process of its own, or None where it dies."""
    values = {**{name: getattr(chosen, name, None) for name in FIELDS}, "batch": batch, "rows": rows}
    return in_process("benchmarks.memory", "one", **values)


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(
        __doc__, shape="smolvlm-2-layers", batches=[64, 128, 256, 512, 1024, 2048, 4096], rows=32, device="cpu",
        dtype="float32", limit_gb=0.0,
    )  # fmt: skip
    found, alive = [], True
    for batch in chosen.batches:
        cached = point(chosen, batch, chosen.rows)
        whole = point(chosen, batch, 0) if alive else None
        alive = whole is not None
        found.append({"batch": batch, "cached": cached, "whole": whole})
    rows = [["batch", "cached: peak GB", "of it pictures and features", "one graph: peak GB"]]
    for each in found:
        cached, whole = each["cached"], each["whole"]
        told = [f"{cached['peak']:.2f}", f"{cached['held']:.2f}"] if cached else ["died", "–"]
        rows.append([str(each["batch"]), *told, f"{whole['peak']:.2f}" if whole else "died"])
    peaks = [each["cached"]["peak"] - each["cached"]["held"] for each in found if each["cached"]]
    flat = max(peaks) / min(peaks) - 1 if peaks else float("nan")
    page(chosen.out, "memory", __doc__, [
        f"{chosen.shape}, chunks of {chosen.rows} rows. One run a point: peaks do not vary as times do.",
        table(rows),
        f"Cached, less pictures and features: largest over least {100 * flat:.1f} % (goal: at most 10 %).",
    ], {"points": found, "flat": flat})  # fmt: skip


if __name__ == "__main__":
    main()
