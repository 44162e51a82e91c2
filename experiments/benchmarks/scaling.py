"""Estimate the paper's training run from measured throughput: hours, dollars, communication. Writes docs/scaling.md.

python -m experiments.benchmarks.step                    first, on the machine in question
python -m experiments.benchmarks.scaling --price 2.5     dollars per GPU hour
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks import measure
from vladva_kit.models.files import atomic_write

PAIRS, EPOCHS, BATCH = 8_100_000, 7, 1024  # paper, section 4.1
RANKS = (1, 8, 32, 256)
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0}  # dense bfloat16, from the data sheets
FIFTH = 0.2
NO_GPU = """
**Nothing here was measured on a GPU.** The measured throughput is a CPU's. GPU numbers are estimates from operation
counts, the peak in the device's data sheet, and an assumed utilization.
"""


@dataclass(frozen=True)
class Paper:
    """LLaVA-1.5-7B as trained in the paper: weights from its published config, tokens per pair as assumed here."""

    layers: int = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    head: int = 4096 * 32_064
    encoder: int = 24 * 12 * 1024**2
    dim: int = 4096
    adapter: int = 39_976_960 + 2 * 20 * 4096  # LoRA of rank 16; two soft prompts of about 20 tokens
    patches: int = 577
    tokens: int = 576 + 40 + 100 + 60  # image, image prompt, long caption, short caption with its prompt
    targets: int = 100

    def flops(self, forwards: int) -> float:
        """Return the operations per pair in matrix products. forwards: as in `measure.count_flops`."""
        llm = 2 * (forwards + 1) * self.layers * self.tokens
        return llm + 4 * self.head * self.targets + 2 * self.encoder * self.patches


def megabytes_sent(ranks: int, batch: int, dim: int, adapter: int) -> dict[str, float]:
    """Return the MB that each rank sends per step, in float32: embeddings, their gradients, adapter gradients.

    In a ring, an all-gather of n bytes sends n·(r-1)/r per rank, and an all-reduce twice as much.
    """
    share = (ranks - 1) / ranks / 1e6
    embeddings = 2 * batch * dim * 4 * share
    return {"embeddings": embeddings, "their gradients": 2 * embeddings, "adapter": 2 * adapter * 4 * share}


def step_seconds(ranks: int, rate: float, dim: int, adapter: int, bandwidth: float) -> tuple[float, float]:
    """Return the compute and communication time of a step. rate: pairs per second and device; bandwidth: GB/s per rank.

    step_seconds(8, rate=4.0, dim=4096, adapter=40_000_000, bandwidth=25.0)    # (32.0, 0.015)
    """
    return BATCH / ranks / rate, sum(megabytes_sent(ranks, BATCH, dim, adapter).values()) / 1e3 / bandwidth


def ranks_table(rate: float, dim: int, adapter: int, bandwidth: float, price: float) -> str:
    """Tabulate the run's hours, dollars and communication by number of ranks. price: per hour and rank."""
    rows = [["ranks", "pairs per rank and step", "hours", "dollars", "MB sent per rank and step", "share of step time"]]
    for ranks in RANKS:
        compute, send = step_seconds(ranks, rate, dim, adapter, bandwidth)
        hours = PAIRS * EPOCHS / BATCH * (compute + send) / 3600
        rows.append([str(ranks), f"{BATCH / ranks:g}", f"{hours:,.0f}", f"{hours * ranks * price:,.0f}",
                     f"{1e3 * send * bandwidth:.1f}", f"{100 * send / (compute + send):.2g} %"])  # fmt: skip
    return measure.table(rows)


def devices_table(tflops_per_pair: float, devices: dict[str, tuple[float, float]]) -> str:
    """Tabulate the run on one device. devices: TFLOP/s and price per hour, by name."""
    rows = [["device", "TFLOP/s", "pairs per second", "hours", "dollars"]]
    for name, (tflops, price) in devices.items():
        hours = PAIRS * EPOCHS * tflops_per_pair / tflops / 3600
        rows.append(
            [name, f"{tflops:.3g}", f"{tflops / tflops_per_pair:.3g}", f"{hours:,.0f}", f"{hours * price:,.0f}"]
        )
    return measure.table(rows)


def communication_limit(rate: float, paper: Paper, bandwidth: float) -> str:
    """State from how many ranks on communication takes more than a fifth of the compute time."""
    for ranks in range(2, BATCH + 1):
        compute, send = step_seconds(ranks, rate, paper.dim, paper.adapter, bandwidth)
        if send > FIFTH * compute:
            return f"From {ranks} ranks on, communication takes more than a fifth of the compute time."
    return f"Up to {BATCH:,} ranks with one pair each, communication takes less than a fifth of the compute time."


def scaling_page(measured: dict[str, Any], args: Namespace) -> str:
    """Return the page. measured: the values of the step benchmark."""
    paper, method = Paper(), args.method
    tflops = paper.flops(forwards=2 if method == "cached" else 1) / 1e12
    gpu_rate = args.utilization * PEAK_TFLOPS["A100"] / tflops
    price = args.cpu_price if measured["device"] == "cpu" else args.price
    rate = measured["pairs_per_second"][method]
    devices = {"the machine above, at its measured speed": (measured["tflops"][method], price)} | {
        f"{name}: {100 * args.utilization:.0f} % (assumed) of {peak:g} TFLOP/s": (args.utilization * peak, args.price)
        for name, peak in PEAK_TFLOPS.items()
    }
    sent = [megabytes_sent(ranks, BATCH, paper.dim, paper.adapter) for ranks in RANKS[1:]]
    sent_rows = [[str(r), *(f"{mb:.1f}" for mb in one.values())] for r, one in zip(RANKS[1:], sent, strict=True)]
    return f"""# Scaling to the paper's training run

Generated by `python -m experiments.benchmarks.scaling`. {PAIRS / 1e6:g} million pairs × {EPOCHS} epochs with batch size
{BATCH:,} are {PAIRS * EPOCHS // BATCH:,} steps. Assumptions: each rank sends {args.bandwidth:g} GB/s; a GPU costs \
${args.price:g} per hour and a CPU machine
${args.cpu_price:g}; throughput per device does not depend on the batch size; communication and computation do not \
overlap.
{NO_GPU if measured["device"] == "cpu" else ""}
## Measured throughput

`{measured["command"]}` on {measured["machine"]}: {rate:.1f} pairs per second ({method},
{measured["shape"]}, batch {measured["batch"]}), or {measured["tflops"][method]:.3g} TFLOP/s in matrix products. \
{measure.load_text(measured)} For
the paper's pairs, a model of this small shape
would need:

{ranks_table(rate, measured["dim"], measured["adapter_parameters"], args.bandwidth, price)}

## Estimate for the paper's model

LLaVA-1.5-7B takes {tflops:.1f} TFLOP per pair ({method}): {paper.layers / 1e9:.2f} billion weights in its layers and \
{paper.tokens} tokens per pair (assumed:
576 for an image, 100 for a long caption, 100 for prompts and a short caption). On one device:

{devices_table(tflops, devices)}

On several A100s at {100 * args.utilization:.0f} % utilization (assumed):

{ranks_table(gpu_rate, paper.dim, paper.adapter, args.bandwidth, args.price)}

## Communication

A step gathers the image and text embeddings of all ranks, returns their gradients to the ranks that own the rows, and
averages the adapter's gradients ({paper.adapter:,} parameters for the paper's model) in one call. The frozen LVLM and
logits are never sent: each rank computes its own rows of logits. MB sent per rank and step, for the paper's model:

{measure.table([["ranks", *sent[0]], *sent_rows])}

## Limits

{communication_limit(gpu_rate, paper, args.bandwidth)} With 256
ranks, each rank has {BATCH // 256} pairs of a batch of {BATCH:,}. That is too few to keep a GPU busy, so \
throughput per device
falls below the assumption before communication matters. Each rank also loads the complete LVLM. Possible remedies, in
this order:

1. A larger batch, which cached gradients fit in memory and which helps the contrastive loss.
2. A reduce-scatter instead of the all-reduce of the embeddings' gradients, which halves that part.
3. Sending the adapter's gradients while the last chunk is still running.
4. Groups of ranks that share a batch's rows.
"""


def main() -> None:
    """Write the page."""
    args = measure.parse_arguments(
        __doc__, method="cached", price=2.0, cpu_price=0.1, bandwidth=25.0, utilization=0.4,
        out_file="docs/scaling.md", results=str(measure.RESULTS),
    )  # fmt: skip
    text = scaling_page(measure.read_values(Path(args.results) / "step.json"), args)
    atomic_write({Path(args.out_file): text.encode()})
    print(text)


if __name__ == "__main__":
    main()
