"""A training step: one forward for both losses against two; cached gradients against one graph, and against a peer's.

The peer is sentence-transformers' cached loss on the exported model, contrastive alone on both sides, at a batch of its
own; its and the kit's peak memory are those of a process each.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import vladva_kit as vk
from experiments.benchmarks import baselines
from experiments.benchmarks.measure import (
    arguments,
    contents,
    explained,
    forget_peak,
    give_back_freed,
    goal,
    in_process,
    median,
    operations,
    page,
    peak,
    ratio,
    spread,
    table,
    turns,
)
from experiments.benchmarks.shapes import learning, scenes, shaped
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.trainer import Batch, Collator, step_losses


def two_forwards(embedder: vk.Embedder, both: Batch, bare: Batch) -> None:
    """The picture once for the contrastive loss and once more, with the long caption, for next-token."""
    step_losses(embedder, bare, 0.0)["loss"].backward()
    step_losses(embedder, replace(both, texts=None, paired=both.paired[:0], keys=both.keys[:0]))["loss"].backward()


def contrastive_steps(
    shape: str, device: str, dtype: str, batch: int, rows: int, folder: Path, who: tuple[str, ...]
) -> dict[str, Callable[[], Any]]:
    """A cached step of the contrastive loss alone, by the kit and by sentence-transformers, on the same pairs."""
    embedder, pairs = learning(shaped(shape, device, getattr(torch, dtype))), scenes(batch)
    ways: dict[str, Callable[[], Any]] = {}
    if "sentence-transformers" in who:  # exported first, so that it has LoRA as it begins
        ways["sentence-transformers"] = baselines.cached_loss_step(embedder, pairs, rows, folder)
    if "kit" in who:
        bare = Collator(embedder, next_token=False)(pairs)["batch"]
        parameters = [weight for weight in embedder.lvlm.model.parameters() if weight.requires_grad]

        def step() -> float:
            for weight in parameters:
                weight.grad = None
            return float(cached_step(embedder, bare, 0.0, rows=rows)[0]["loss"])

        ways["kit"] = step
    return ways


def peak_of(who: str, **values: Any) -> dict[str, float]:
    """The peak memory of one contrastive step, GB, and what was held before it."""
    give_back_freed()
    with tempfile.TemporaryDirectory() as folder:
        step = contrastive_steps(**values, folder=Path(folder) / "exported", who=(who,))[who]
    forget_peak(values["device"])  # the export and a second model are no part of the step
    before = peak(values["device"])
    step()
    return {"peak": peak(values["device"]), "before": before}


def against_peer(chosen: Namespace) -> tuple[list[str], dict[str, Any]]:
    """The page's part on sentence-transformers, and its values; one sentence where it is missing."""
    if not baselines.there():
        return [baselines.MISSING], {}
    values = {name: getattr(chosen, name) for name in ("shape", "device", "dtype", "rows")}
    values["batch"] = chosen.peer_batch
    with tempfile.TemporaryDirectory() as folder:
        ways = contrastive_steps(**values, folder=Path(folder) / "exported", who=("sentence-transformers", "kit"))
    losses = {name: way() for name, way in ways.items()}  # the warm-up too
    seconds = turns(ways, chosen.runs, warm=True)
    peaks = {who: in_process("experiments.benchmarks.step", "peak_of", who=who, **values) for who in ways}
    if any("died" in one for one in peaks.values()):
        raise RuntimeError(f"a step in a process of its own died: {peaks}; take a smaller --peer-batch")
    rows = [["contrastive step", "seconds: median (least–largest)", "peak GB", "loss"]]
    rows += [[name, spread(own), f"{peaks[name]['peak']:.2f}", f"{losses[name]:.4f}"] for name, own in seconds.items()]
    faster = ratio(seconds, "sentence-transformers", "kit")
    memory = peaks["kit"]["peak"] / peaks["sentence-transformers"]["peak"]
    met = [
        goal("sentence-transformers' cached loss / the kit's step", faster, 1.0, least=True),
        goal("The kit's peak memory / its", memory, 1.0, least=False),
    ]
    return [
        f"The contrastive loss alone, {chosen.peer_batch} pairs, chunks of {chosen.rows} rows, on both sides; in the "
        "kit the soft prompts and the temperature learn besides LoRA.",
        table(rows),
        *explained(met, "the kit's step", ways["kit"]),
    ], {"seconds": seconds, "peaks": peaks, "losses": losses, "faster": faster, "memory": memory}


def within_kit(chosen: Namespace) -> tuple[list[str], dict[str, Any]]:
    """The page's part on the kit's own ways of a step with both losses, and its values."""
    embedder = learning(shaped(chosen.shape, chosen.device, getattr(torch, chosen.dtype)))
    pairs = scenes(chosen.batch)
    both = Collator(embedder)(pairs)["batch"]
    bare = Collator(embedder, next_token=False)(pairs)["batch"]
    parameters = [weight for weight in embedder.lvlm.model.parameters() if weight.requires_grad]

    def clean(way: Callable[[], Any]) -> Callable[[], None]:
        def cleaned() -> None:
            for weight in parameters:
                weight.grad = None
            way()

        return cleaned

    ways = {
        "one forward": clean(lambda: step_losses(embedder, both)["loss"].backward()),
        "two forwards": clean(lambda: two_forwards(embedder, both, bare)),
        "cached": clean(lambda: cached_step(embedder, both, rows=chosen.rows)),
    }
    seconds = turns(ways, chosen.runs)
    rate = {name: chosen.batch / median(own) for name, own in seconds.items()}
    rows = [["way", "seconds: median (least–largest)", "pairs a second"]]
    rows += [[name, spread(own), f"{rate[name]:.1f}"] for name, own in seconds.items()]
    longer = ratio(seconds, "two forwards", "one forward")
    tokens, learned, image_tokens = contents(embedder, both)
    model, again = embedder.lvlm.model, int(bare.images.inputs["attention_mask"].sum())
    flops = {
        "one forward": operations(model, tokens, learned, image_tokens),
        "two forwards": operations(model, tokens + again, learned, 2 * image_tokens),
        "cached": operations(model, tokens, learned, image_tokens, forwards=2),
    }
    tflops = {name: flops[name] / median(own) / 1e12 for name, own in seconds.items()}
    parts = [
        f"{chosen.batch} pairs of {tokens / chosen.batch:.0f} tokens, {chosen.shape}; chunks of {chosen.rows} rows.",
        table(rows),
        *explained([goal("Two forwards / one", longer, 1.5, least=True)], "the one forward", ways["one forward"]),
        f"Counted in matrix products, two forwards cost {flops['two forwards'] / flops['one forward']:.2f} times one "
        "at this depth; the head, which both meet once, weighs the less the more layers there are.",
        f"The one forward makes {tflops['one forward']:.3g} TFLOP/s, the cached step {tflops['cached']:.3g}.",
    ]
    if chosen.peak_tflops:
        mfu = 100 * tflops["one forward"] / chosen.peak_tflops
        parts.append(f"MFU of the one forward: {mfu:.1f} % of {chosen.peak_tflops:g} TFLOP/s.")
    return parts, {
        "seconds": seconds, "ratio": longer, "pairs_a_second": rate, "tflops": tflops,
        "device": chosen.device,
        "adapter_weights": sum(weight.numel() for weight in parameters), "batch": chosen.batch,
        "dim": embedder.lvlm.model.config.text_config.hidden_size, "shape": chosen.shape,
    }  # fmt: skip


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(
        __doc__, shape="smolvlm-2-layers", batch=256, rows=32, peer_batch=1024, device="cpu", dtype="float32",
        peak_tflops=0.0,
    )  # fmt: skip
    parts, values = within_kit(chosen)
    told, peer = against_peer(chosen)
    page(chosen.out, "step", __doc__, [*parts, *told], {**values, "peer": peer})


if __name__ == "__main__":
    main()
