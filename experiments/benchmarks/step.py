"""A training step: one forward pass for both losses or two, cached gradients, and sentence-transformers' cached loss.

sentence-transformers trains the exported model with the contrastive loss only, and so does the kit in that comparison,
which has its own batch size. Peak memory is measured in one process per method.
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import vladva_kit as vk
from experiments.benchmarks import baselines, measure
from experiments.benchmarks.shapes import sample_pairs, trainable_embedder
from vladva_kit.training.collator import Batch, Collator
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.trainer import step_losses

RECOMPUTED = "kit without kept features"


def run_two_forwards(embedder: vk.Embedder, both: Batch, contrastive: Batch) -> None:
    """Run each image twice: for the contrastive loss, and with its long caption for the next-token loss."""
    step_losses(embedder, contrastive, 0.0)["loss"].backward()
    step_losses(embedder, replace(both, texts=None, paired=both.paired[:0], keys=both.keys[:0]))["loss"].backward()


def without_gradients(embedder: vk.Embedder, function: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap a step so that it starts without gradients of the previous one."""
    parameters = [weight for weight in embedder.lvlm.model.parameters() if weight.requires_grad]

    def step() -> Any:
        for weight in parameters:
            weight.grad = None
        return function()

    return step


def contrastive_steps(
    shape: str, device: str, dtype: str, batch: int, rows: int, folder: Path, methods: tuple[str, ...]
) -> dict[str, Callable[[], float]]:
    """Return a cached step of the contrastive loss for each method, on the same pairs; a step returns the loss."""
    embedder, pairs = trainable_embedder(shape, device, dtype), sample_pairs(batch)
    steps: dict[str, Callable[[], float]] = {}
    if "sentence-transformers" in methods:  # exported before any training
        steps["sentence-transformers"] = baselines.cached_loss_step(embedder, pairs, rows, folder)
    if "kit" in methods or RECOMPUTED in methods:
        data = Collator(embedder, next_token=False)(pairs)["batch"]
        for name, keep in {"kit": True, RECOMPUTED: False}.items():
            step = partial(cached_step, step_losses, embedder, data, 0.0, rows=rows, keep_features=keep)
            steps[name] = without_gradients(embedder, lambda step=step: float(step()[0]["loss"]))
    return steps


def peak_memory_of(method: str, **settings: Any) -> dict[str, float]:
    """Return the peak memory of one contrastive step, and the memory before it, in GB."""
    measure.return_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        step = contrastive_steps(**settings, folder=Path(folder) / "exported", methods=(method,))[method]
    measure.reset_peak_memory(settings["device"])  # excludes the export and the second model
    before = measure.peak_memory(settings["device"])
    step()
    return {"peak": measure.peak_memory(settings["device"]), "before": before}


def compare_with_baseline(args: Namespace) -> tuple[list[str], dict[str, Any]]:
    """Return the page's part on sentence-transformers and its values."""
    if not baselines.installed():
        return [baselines.NOT_INSTALLED], {}
    settings = {name: getattr(args, name) for name in ("shape", "device", "dtype", "rows")}
    settings["batch"] = args.baseline_batch
    with tempfile.TemporaryDirectory() as folder:
        names = ("sentence-transformers", "kit", RECOMPUTED)
        steps = contrastive_steps(**settings, folder=Path(folder) / "exported", methods=names)
    losses = {name: step() for name, step in steps.items()}  # also the warm-up
    seconds = measure.time_interleaved(steps, args.runs, warmed_up=True)
    peaks = {
        name: measure.run_in_process("experiments.benchmarks.step", "peak_memory_of", method=name, **settings)
        for name in steps
    }
    if any("error" in peak for peak in peaks.values()):
        raise RuntimeError(f"a step in its own process failed: {peaks}; use a smaller --baseline-batch")
    rows = [["contrastive step", measure.SECONDS, "peak GB", "loss"]]
    for name, times in seconds.items():
        rows.append([name, measure.median_and_range(times), f"{peaks[name]['peak']:.2f}", f"{losses[name]:.4f}"])
    speedup = measure.median_ratio(seconds, "sentence-transformers", "kit")
    memory = peaks[RECOMPUTED]["peak"] / peaks["sentence-transformers"]["peak"]
    targets = [
        measure.target("Time of sentence-transformers / kit", speedup, at_least=1.0),
        measure.target(f"Peak memory of {RECOMPUTED} / sentence-transformers", memory, at_most=1.0),
    ]
    parts = [
        f"Contrastive loss only, {args.baseline_batch} pairs, chunks of {args.rows} rows. The kit also trains soft "
        "prompts and the temperature.",
        measure.table(rows),
        *measure.with_profile(targets, "the kit's step", steps["kit"]),
    ]
    return parts, {"seconds": seconds, "peaks": peaks, "losses": losses, "speedup": speedup, "memory": memory}


def compare_within_kit(args: Namespace) -> tuple[list[str], dict[str, Any]]:
    """Return the page's part on the kit's own steps with both losses, and its values."""
    embedder, pairs = trainable_embedder(args.shape, args.device, args.dtype), sample_pairs(args.batch)
    both = Collator(embedder)(pairs)["batch"]
    contrastive = Collator(embedder, next_token=False)(pairs)["batch"]
    functions = {
        "one forward": lambda: step_losses(embedder, both)["loss"].backward(),
        "two forwards": lambda: run_two_forwards(embedder, both, contrastive),
        "cached": lambda: cached_step(step_losses, embedder, both, rows=args.rows),
    }
    steps = {name: without_gradients(embedder, function) for name, function in functions.items()}
    seconds = measure.time_interleaved(steps, args.runs)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rate = {name: args.batch / median for name, median in medians.items()}
    rows = [["step", measure.SECONDS, "pairs per second"]]
    rows += [[name, measure.median_and_range(times), f"{rate[name]:.1f}"] for name, times in seconds.items()]
    ratio = measure.median_ratio(seconds, "two forwards", "one forward")
    tokens, targets, image_tokens = measure.count_tokens(embedder, both)
    model, repeated = embedder.lvlm.model, int(contrastive.images.inputs["attention_mask"].sum())
    flops = {
        "one forward": measure.count_flops(model, tokens, targets, image_tokens),
        "two forwards": measure.count_flops(model, tokens + repeated, targets, 2 * image_tokens),
        "cached": measure.count_flops(model, tokens, targets, image_tokens, forwards=2),
    }
    tflops = {name: flops[name] / medians[name] / 1e12 for name in steps}
    reached = [measure.target("Time of two forwards / one", ratio, at_least=1.5)]
    parts = [
        f"{args.batch} pairs of {tokens / args.batch:.0f} tokens, {args.shape}; chunks of {args.rows} rows.",
        measure.table(rows),
        *measure.with_profile(reached, "the step with one forward", steps["one forward"]),
        f"In matrix products, two forwards cost {flops['two forwards'] / flops['one forward']:.2f} times one forward "
        "with this number of layers. Both use the LM head once, whose share falls with more layers.",
        f"One forward: {tflops['one forward']:.3g} TFLOP/s; cached: {tflops['cached']:.3g} TFLOP/s.",
    ]
    if args.peak_tflops:
        mfu = 100 * tflops["one forward"] / args.peak_tflops
        parts.append(f"MFU of one forward: {mfu:.1f} % of {args.peak_tflops:g} TFLOP/s.")
    return parts, {
        "seconds": seconds, "ratio": ratio, "pairs_per_second": rate, "tflops": tflops, "device": args.device,
        "adapter_parameters": sum(w.numel() for w in model.parameters() if w.requires_grad), "batch": args.batch,
        "dim": model.config.text_config.hidden_size, "shape": args.shape,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(
        __doc__, shape="smolvlm-2-layers", batch=256, rows=32, baseline_batch=1024, device="cpu", dtype="float32",
        peak_tflops=0.0,
    )  # fmt: skip
    parts, values = compare_within_kit(args)
    baseline_parts, baseline = compare_with_baseline(args)
    measure.write_page(args.out, "step", __doc__, [*parts, *baseline_parts], {**values, "baseline": baseline})


if __name__ == "__main__":
    main()
