"""Pairs a second, MFU and peak memory of encoding and of training: each attention, and torch.compile on and off.

Each line is a process of its own, on batches that are ready. Train: both losses, one forward and its backward. Compiled
are the LLM's layers, one by one, since they are alike and so compile once; the first run, which compiles, is apart.

python -m experiments.benchmarks.throughput --shape llava-1.5-7b --device cuda --dtype bfloat16 --batch 32 \
    --attentions sdpa flash_attention_2
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch

from experiments.benchmarks.measure import (
    arguments,
    contents,
    forget_peak,
    in_process,
    median,
    operations,
    page,
    peak,
    spread,
    table,
    turns,
)

# TFLOP/s in bfloat16 without sparsity, by what a device calls itself: the data sheets'
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L4": 121.0}
VALUES = ("shape", "device", "dtype", "batch", "runs")


def one(
    work: str, attention: str, compiled: bool, shape: str, device: str, dtype: str, batch: int, runs: int
) -> dict[str, Any]:
    """Seconds, seconds of the first run, operations and peak GB of one line; work: "encode" or "train"."""
    from experiments.benchmarks.shapes import learning, scenes, shaped
    from vladva_kit.training.trainer import Collator

    embedder = learning(shaped(shape, device, getattr(torch, dtype)))
    decoder = embedder.lvlm.model.get_decoder()
    decoder.set_attn_implementation(attention)
    for layer in decoder.layers if compiled else ():
        layer.compile()
    data = Collator(embedder, next_token=work == "train")(scenes(batch))["batch"]
    step = _step(work, embedder, data)
    first = turns({work: step}, 1, warm=True)[work][0]
    forget_peak(device)
    seconds = turns({work: step}, runs, warm=True)[work]
    tokens, learned, patches = contents(embedder, data)
    flops = operations(embedder.lvlm.model, tokens, learned, patches, forwards=int(work == "train"))
    return {"seconds": seconds, "first": first, "peak": peak(device), "flops": flops}


def _step(work: str, embedder: Any, data: Any) -> Callable[[], None]:
    from vladva_kit.training.trainer import step_losses

    towers = [sequences.to(embedder.device) for sequences in (data.images, data.texts)]

    @torch.inference_mode()
    def encode() -> None:
        for sequences in towers:
            embedder.hidden_states(sequences)

    def train() -> None:
        for weight in embedder.lvlm.model.parameters():
            weight.grad = None
        step_losses(embedder, data)["loss"].backward()

    return encode if work == "encode" else train


def lines(chosen: Namespace, most: float) -> tuple[list[list[str]], dict[str, Any]]:
    """The table's rows, and what was measured, by work, attention and whether compiled."""
    given = {name: getattr(chosen, name) for name in VALUES}
    rows, found = [], {}
    for work in chosen.works:
        for attention in chosen.attentions:
            for compiled in (False, True):
                name = f"{work}, {attention}{', compiled' if compiled else ''}"
                got = in_process(
                    "experiments.benchmarks.throughput",
                    "one",
                    work=work,
                    attention=attention,
                    compiled=compiled,
                    **given,
                )
                found[name] = got
                rows.append([name, *_told(got, chosen.batch, most)])
    return rows, found


def _told(got: dict[str, Any], batch: int, most: float) -> list[str]:
    if "died" in got:
        return [f"did not run: {got['died']}", *["–"] * 5]
    rate = got["flops"] / median(got["seconds"]) / 1e12
    mfu = f"{100 * rate / most:.1f} %" if most else "–"
    return [
        spread(got["seconds"]), f"{batch / median(got['seconds']):.1f}", f"{rate:.3g}", mfu, f"{got['peak']:.2f}",
        f"{got['first']:.1f}",
    ]  # fmt: skip


def gains(found: dict[str, Any]) -> list[str]:
    """What compiling gains, a sentence for each line that ran both ways."""
    told = []
    for name, plain in found.items():
        compiled = found.get(f"{name}, compiled")
        if compiled and "died" not in plain and "died" not in compiled:
            ratio = median(plain["seconds"]) / median(compiled["seconds"])
            told.append(f"{name}: compiled, {ratio:.2f} times as fast.")
    return told


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(
        __doc__, shape="smolvlm-2-layers", batch=64, device="cpu", dtype="float32", attentions=["sdpa"],
        works=["encode", "train"], peak_tflops=0.0,
    )  # fmt: skip
    name = torch.cuda.get_device_name() if chosen.device != "cpu" else ""
    most = chosen.peak_tflops or next((value for known, value in PEAKS.items() if known in name), 0.0)
    rows, found = lines(chosen, most)
    if all("died" in got for got in found.values()):
        raise RuntimeError(f"no line ran: {found}")
    heading = ["", "seconds: median (least–largest)", "pairs a second", "TFLOP/s", "MFU", "peak GB", "first run, s"]
    against = f"MFU is against {most:g} TFLOP/s." if most else "No peak is known of this device: no MFU."
    page(chosen.out, "throughput", __doc__, [
        f"{chosen.batch} pairs, {chosen.shape}, {chosen.dtype}. {against}", table([heading, *rows]), *gains(found),
    ], {"lines": found, "peak_tflops": most})  # fmt: skip


if __name__ == "__main__":
    main()
