"""Throughput, MFU and peak memory of encoding and training, by attention implementation and with torch.compile.

Each row is measured in its own process, on prepared batches. A training step is one forward and backward pass with both
losses. The LLM's layers are compiled one by one, since equal layers share the compiled code; the first run, which
compiles, is listed separately.

python -m experiments.benchmarks.throughput --shape llava-1.5-7b --device cuda --dtype bfloat16 --batch 32 \
    --attentions sdpa flash_attention_2
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch

from experiments.benchmarks import measure

# dense bfloat16 TFLOP/s from the data sheets, by a part of the device's name
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L4": 121.0}
OPTIONS = ("shape", "device", "dtype", "batch", "runs")


def measure_task(
    task: str, attention: str, compiled: bool, shape: str, device: str, dtype: str, batch: int, runs: int
) -> dict[str, Any]:
    """Return times, time of the first run, operations and peak memory in GB of a task: "encode" or "train"."""
    from experiments.benchmarks.shapes import sample_pairs, trainable_embedder
    from vladva_kit.training.collator import Collator

    embedder = trainable_embedder(shape, device, dtype)
    decoder = embedder.lvlm.model.get_decoder()
    decoder.set_attn_implementation(attention)
    for layer in decoder.layers if compiled else ():
        layer.compile()
    data = Collator(embedder, next_token=task == "train")(sample_pairs(batch))["batch"]
    step = {task: _step(task, embedder, data)}
    first = measure.time_interleaved(step, 1, warmed_up=True)[task][0]
    measure.reset_peak_memory(device)
    seconds = measure.time_interleaved(step, runs, warmed_up=True)[task]
    flops = measure.count_flops(
        embedder.lvlm.model, *measure.count_tokens(embedder, data), forwards=int(task == "train")
    )
    return {"seconds": seconds, "first": first, "peak": measure.peak_memory(device), "flops": flops}


def _step(task: str, embedder: Any, data: Any) -> Callable[[], None]:
    from vladva_kit.training.trainer import step_losses

    sides = [inputs.to(embedder.device) for inputs in (data.images, data.texts)]

    @torch.inference_mode()
    def encode() -> None:
        for inputs in sides:
            embedder.hidden_states(inputs)

    def train() -> None:
        for weight in embedder.lvlm.model.parameters():
            weight.grad = None
        step_losses(embedder, data)["loss"].backward()

    return encode if task == "encode" else train


def measure_all(args: Namespace) -> dict[str, Any]:
    """Measure every combination: `measure_all(args)["train, sdpa, compiled"]["flops"]`."""
    options = {name: getattr(args, name) for name in OPTIONS}
    results = {}
    for task in args.tasks:
        for attention in args.attentions:
            for compiled in (False, True):
                name = f"{task}, {attention}{', compiled' if compiled else ''}"
                case = {"task": task, "attention": attention, "compiled": compiled, **options}
                results[name] = measure.run_in_process("experiments.benchmarks.throughput", "measure_task", **case)
    return results


def _cells(result: dict[str, Any], batch: int, peak_tflops: float) -> list[str]:
    if "error" in result:
        return [f"failed: {result['error']}", *["–"] * 5]
    seconds = statistics.median(result["seconds"])
    tflops = result["flops"] / seconds / 1e12
    mfu = f"{100 * tflops / peak_tflops:.1f} %" if peak_tflops else "–"
    rate, memory, first = f"{batch / seconds:.1f}", f"{result['peak']:.2f}", f"{result['first']:.1f}"
    return [measure.median_and_range(result["seconds"]), rate, f"{tflops:.3g}", mfu, memory, first]


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(
        __doc__, shape="smolvlm-2-layers", batch=64, device="cpu", dtype="float32", attentions=["sdpa"],
        tasks=["encode", "train"], peak_tflops=0.0,
    )  # fmt: skip
    device = torch.cuda.get_device_name() if args.device != "cpu" else ""
    peak_tflops = args.peak_tflops or next((peak for name, peak in PEAK_TFLOPS.items() if name in device), 0.0)
    results = measure_all(args)
    if all("error" in result for result in results.values()):
        raise RuntimeError(f"every process failed: {results}")
    heading = ["", measure.SECONDS, "pairs per second", "TFLOP/s", "MFU", "peak GB", "first run (s)"]
    rows = [[name, *_cells(result, args.batch, peak_tflops)] for name, result in results.items()]
    reference = (
        f"MFU is relative to {peak_tflops:g} TFLOP/s." if peak_tflops else "The device's peak is unknown: no MFU."
    )
    parts = [f"{args.batch} pairs, {args.shape}, {args.dtype}. {reference}", measure.table([heading, *rows])]
    measure.write_page(args.out, "throughput", __doc__, parts, {"results": results, "peak_tflops": peak_tflops})


if __name__ == "__main__":
    main()
