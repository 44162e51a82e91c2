"""A training step: one forward for both losses against two; cached gradients against one graph."""

from __future__ import annotations

from dataclasses import replace

import torch

import vladva_kit as vk
from benchmarks.measure import arguments, goal, median, page, spread, table, turns
from benchmarks.shapes import learning, scenes, shaped
from vladva_kit.cached_gradients import cached_step
from vladva_kit.training import Batch, Collator, step_losses


def two_forwards(embedder: vk.Embedder, both: Batch, bare: Batch) -> None:
    """The picture once for the contrastive loss and once more, with the long caption, for next-token."""
    step_losses(embedder, bare, 0.0)["loss"].backward()
    step_losses(embedder, replace(both, texts=None, paired=both.paired[:0], keys=both.keys[:0]))["loss"].backward()


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(
        __doc__, shape="smolvlm-2-layers", batch=256, rows=32, device="cpu", dtype="float32", peak_tflops=0.0
    )
    embedder = learning(shaped(chosen.shape, chosen.device, getattr(torch, chosen.dtype)))
    pairs = scenes(chosen.batch)
    both = Collator(embedder)(pairs)["batch"]
    bare = Collator(embedder, next_token=False)(pairs)["batch"]
    parameters = [weight for weight in embedder.lvlm.model.parameters() if weight.requires_grad]

    def clean(way):
        for weight in parameters:
            weight.grad = None
        way()

    seconds = turns(
        {
            "one forward": lambda: clean(lambda: step_losses(embedder, both)["loss"].backward()),
            "two forwards": lambda: clean(lambda: two_forwards(embedder, both, bare)),
            "cached": lambda: clean(lambda: cached_step(embedder, both, rows=chosen.rows)),
        },
        chosen.runs,
    )
    rows = [["way", "seconds: median (least–largest)", "pairs a second"]]
    rows += [[name, spread(own), f"{chosen.batch / median(own):.1f}"] for name, own in seconds.items()]
    ratio = median(seconds["two forwards"]) / median(seconds["one forward"])
    tokens = int(both.images.inputs["attention_mask"].sum() + both.texts.inputs["attention_mask"].sum())
    weights = sum(weight.numel() for weight in embedder.lvlm.model.get_decoder().parameters())
    rate = {name: chosen.batch / median(own) for name, own in seconds.items()}
    flops = 4 * weights * tokens  # forward 2, backward through frozen weights 2
    parts = [
        f"{chosen.batch} pairs of {tokens / chosen.batch:.0f} tokens, {chosen.shape}; chunks of {chosen.rows} rows.",
        table(rows),
        goal("Two forwards / one", ratio, 1.5, least=True),
        "Against sentence-transformers' cached loss: not measured here; it is not among the kit's dependencies.",
    ]
    if chosen.peak_tflops:
        mfu = flops / median(seconds["one forward"]) / chosen.peak_tflops / 1e12
        parts.append(f"MFU of the one forward: {100 * mfu:.1f} % of {chosen.peak_tflops:g} TFLOP/s.")
    adapter = sum(weight.numel() for weight in parameters)
    page(chosen.out, "step", __doc__, parts, {
        "seconds": seconds, "ratio": ratio, "pairs_a_second": rate, "adapter_weights": adapter, "batch": chosen.batch,
        "dim": embedder.lvlm.model.config.text_config.hidden_size, "shape": chosen.shape,
    })  # fmt: skip


if __name__ == "__main__":
    main()
