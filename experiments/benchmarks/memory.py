"""Peak memory of a training step by batch size: with cached gradients, and in one graph until memory runs out.

Each value is measured in its own process. On a GPU it is the allocator's peak; on a CPU the process's peak, of which
the batch's inputs and image features are listed separately. Preparing the batch is excluded. A chunk's memory depends
on its longest rows, so all batch sizes use the longest captions of the largest batch. Freed blocks are returned at
once, so that fragmentation does not count, as on a GPU, and the batch is prepared in another process: a step reuses the
memory that decoded images leave behind, which counted as about 90 kB per pair. A process may use nine tenths of the
free memory, unless --limit-gb is set.
"""

from __future__ import annotations

import resource
import tempfile
from functools import partial
from pathlib import Path

import torch

from experiments.benchmarks import measure

OPTIONS = ("shape", "device", "dtype")


def free_memory() -> float:
    """Return the memory in GB that processes may still use; 0 if the system does not report it."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable")), 0.0)


def save_batch(file: str, batch: int, longest_of: int, shape: str, device: str, dtype: str) -> None:
    """Prepare a batch and write it to a file."""
    from experiments.benchmarks.shapes import sample_pairs, trainable_embedder
    from vladva_kit.training.collator import Collator

    collate = Collator(trainable_embedder(shape, device, dtype))
    torch.save(collate(sample_pairs(batch, longest_of=longest_of))["batch"], file)


def measure_step(file: str, rows: int, shape: str, device: str, dtype: str, limit_gb: float) -> dict[str, float]:
    """Return the peak memory in GB of a step, and the batch's own part of it. rows: of a chunk; 0: one graph."""
    from experiments.benchmarks.shapes import trainable_embedder
    from vladva_kit.embedder.prompts import ModelInputs
    from vladva_kit.training.collator import Batch
    from vladva_kit.training.grad_cache import cached_step
    from vladva_kit.training.trainer import step_losses

    measure.return_freed_memory()
    embedder = trainable_embedder(shape, device, dtype)
    with torch.serialization.safe_globals([Batch, ModelInputs]):  # tensors and these dataclasses, no other pickled code
        data = torch.load(file, weights_only=True)
    measure.reset_peak_memory(device)
    if limit_gb and device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9), int(limit_gb * 1e9)))
    before = measure.peak_memory(device)
    if rows:
        cached_step(step_losses, embedder, data, rows=rows)
    else:
        step_losses(embedder, data)["loss"].backward()
    peak, width = measure.peak_memory(device), embedder.lvlm.model.config.text_config.hidden_size
    inputs = [*data.images.inputs.values(), data.images.labels, *data.texts.inputs.values()]
    image_tokens = measure.count_tokens(embedder, data)[2]
    own = sum(part.nbytes for part in inputs) + bool(rows) * image_tokens * width * embedder.lvlm.model.dtype.itemsize
    return {"peak": peak, "before": before, "batch": own / 1e9 if device == "cpu" else 0.0}


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(
        __doc__, shape="smolvlm-2-layers", batches=[64, 256, 1024, 4096], rows=32, device="cpu",
        dtype="float32", limit_gb=0.0,
    )  # fmt: skip
    args.limit_gb = args.limit_gb or 0.9 * free_memory()

    options = {name: getattr(args, name) for name in OPTIONS}
    points, one_graph = [], {}
    for batch in args.batches:
        with tempfile.NamedTemporaryFile(suffix=".pt") as file:
            of_batch = {"file": file.name, "batch": batch, "longest_of": max(args.batches), **options}
            if failed := measure.run_in_process("experiments.benchmarks.memory", "save_batch", **of_batch):
                raise RuntimeError(f"a batch of {batch} was not prepared: {failed['error']}")
            limited = {"file": file.name, "limit_gb": args.limit_gb, **options}
            run = partial(measure.run_in_process, "experiments.benchmarks.memory", "measure_step", **limited)
            cached = run(rows=args.rows)
            if "error" in cached:
                raise RuntimeError(f"the cached step with a batch of {batch} failed: {cached['error']}")
            one_graph = one_graph if "error" in one_graph else run(rows=0)  # a larger batch would fail, too
        points.append({"batch": batch, "cached": cached, "one_graph": one_graph})
    lines, rests = [], []
    for point in points:
        cached, one_graph = point["cached"], point["one_graph"]
        rests.append(cached["peak"] - cached["batch"])
        values = [f"{value:.2f}" for value in (cached["peak"], cached["batch"], rests[-1])]
        lines.append([str(point["batch"]), *values, "failed" if "error" in one_graph else f"{one_graph['peak']:.2f}"])
    heading = ["batch", "cached: peak GB", "of it batch and features", "rest", "one graph: peak GB"]
    growth = max(rests) / min(rests)
    parts = [
        f"{args.shape}, chunks of {args.rows} rows, at most {args.limit_gb:.1f} GB per process. Single runs, since "
        "peaks hardly vary.",
        measure.table([heading, *lines]),
        *({f"Error of the failed process: {one_graph['error']}"} if "error" in one_graph else ()),
        measure.target("Cached, rest: largest / smallest", growth, at_most=1.1),
    ]
    measure.write_page(args.out, "memory", __doc__, parts, {"points": points, "growth": growth})


if __name__ == "__main__":
    main()
