"""Peak memory of a step against the batch size: cached, and the whole batch in one graph until it dies.

Each point is a process of its own. On a GPU it is the allocator's peak; on a CPU the process's, and since the batch's
pixels, ids and features lie in the same memory there, what they take is told apart. What preparing a batch takes beside
it is not counted. A chunk takes as much as its longest rows, so all batches hold the same longest captions, those of
the largest batch; else a larger one would have longer ones by chance. Freed blocks are given back at once: what lies
unused between blocks is not counted, as it is not on a GPU. A CPU process may take nine tenths of what memory is free,
unless --limit-gb says otherwise.
"""

from __future__ import annotations

import resource
from argparse import Namespace

import torch

from experiments.benchmarks.measure import (
    arguments,
    contents,
    forget_peak,
    free_memory,
    give_back_freed,
    goal,
    in_process,
    page,
    peak,
    table,
)

FIELDS = ("batch", "rows", "shape", "device", "dtype", "limit_gb", "longest_of")


def one(
    batch: int, rows: int, shape: str, device: str, dtype: str, limit_gb: float, longest_of: int
) -> dict[str, float]:
    """Peak GB of a step; rows = 0 runs it in one graph. What the batch itself takes is "held"."""
    from experiments.benchmarks.shapes import learning, scenes, shaped
    from vladva_kit.training.grad_cache import cached_step
    from vladva_kit.training.trainer import Collator, step_losses

    give_back_freed()
    embedder = learning(shaped(shape, device, getattr(torch, dtype)))
    data = Collator(embedder)(scenes(batch, longest_of=longest_of))["batch"]
    forget_peak(device)
    if limit_gb and device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9), int(limit_gb * 1e9)))
    before = peak(device)
    if rows:
        cached_step(embedder, data, rows=rows)
    else:
        step_losses(embedder, data)["loss"].backward()
    most, width = peak(device), embedder.lvlm.model.config.text_config.hidden_size
    parts = [*data.images.inputs.values(), data.images.labels, *data.texts.inputs.values()]
    patches = contents(embedder, data)[2]
    held = sum(part.nbytes for part in parts) + bool(rows) * patches * width * embedder.lvlm.model.dtype.itemsize
    return {"peak": most, "before": before, "held": held / 1e9 if device == "cpu" else 0.0}


def point(chosen: Namespace, batch: int, rows: int) -> dict[str, float | str]:
    """One point in a process of its own, or {"died": why}."""
    values = {**{name: getattr(chosen, name, None) for name in FIELDS}, "batch": batch, "rows": rows}
    return in_process("experiments.benchmarks.memory", "one", **values)


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(
        __doc__, shape="smolvlm-2-layers", batches=[64, 256, 1024, 4096], rows=32, device="cpu",
        dtype="float32", limit_gb=0.0,
    )  # fmt: skip
    chosen.longest_of = max(chosen.batches)
    chosen.limit_gb = chosen.limit_gb or 0.9 * free_memory()
    found, whole = [], {}
    for batch in chosen.batches:
        cached = point(chosen, batch, chosen.rows)
        whole = whole if "died" in whole else point(chosen, batch, 0)  # a larger one would die too
        found.append({"batch": batch, "cached": cached, "whole": whole})
    rows = [["batch", "cached: peak GB", "of it the batch and features", "the rest", "one graph: peak GB"]]
    for each in found:
        one, whole = each["cached"], each["whole"]
        rest = one.get("peak", 0) - one.get("held", 0)
        told = ["died", "–", "–"] if "died" in one else [f"{x:.2f}" for x in (one["peak"], one["held"], rest)]
        rows.append([str(each["batch"]), *told, "died" if "died" in whole else f"{whole['peak']:.2f}"])
    deaths = {each[way]["died"] for each in found for way in ("cached", "whole") if "died" in each[way]}
    if any("died" in each["cached"] for each in found):
        raise RuntimeError(f"a cached step died: {deaths}")
    peaks = [each["cached"]["peak"] - each["cached"]["held"] for each in found]
    flat = max(peaks) / min(peaks)
    page(chosen.out, "memory", __doc__, [
        f"{chosen.shape}, chunks of {chosen.rows} rows, at most {chosen.limit_gb:.1f} GB a process. One run a point: "
        "peaks do not vary as times do.",
        table(rows),
        *[f"What the process that died said: {said}" for said in sorted(deaths)],
        goal("Cached, the rest: largest / least", flat, 1.1, least=False),
    ], {"points": found, "flat": flat})  # fmt: skip


if __name__ == "__main__":
    main()
