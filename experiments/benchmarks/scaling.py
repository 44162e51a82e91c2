"""docs/scaling.md, from measured throughput: the paper's run in hours and money, what ranks exchange, where it ends.

python -m experiments.benchmarks.step …                  first, on the machine that is meant
python -m experiments.benchmarks.scaling --price 2.5     dollars an hour for one device
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.measure import RESULTS, arguments, read, table
from vladva_kit.models.files import atomic_write

PAIRS, EPOCHS, BATCH = 8_100_000, 7, 1024  # the paper's (section 4.1)
RANKS = (1, 8, 32, 256)
NO_GPU = """
**No GPU was at hand.** The one measured figure is a CPU's; what is said of GPUs below is an estimate, from operations
counted by hand, the peak in the device's data sheet and an assumed share of it, and has not been seen on any.
"""
DEVICES = {"A100, 312 TFLOP/s in bfloat16": 312.0, "H100, 989 TFLOP/s in bfloat16": 989.0}  # their data sheets'


@dataclass(frozen=True)
class Paper:
    """LLaVA-1.5-7B as the paper trains it: weights by its published config, tokens of a pair as assumed here."""

    layers: int = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    head: int = 4096 * 32_064
    tower: int = 24 * 12 * 1024**2
    dim: int = 4096
    adapter: int = 39_976_960 + 2 * 20 * 4096  # LoRA of rank 16; two soft prompts of some 20 rows
    patches: int = 577
    tokens: int = 576 + 40 + 100 + 60  # the picture, its prompt, a long caption; a short caption with its prompt
    learned: int = 100

    def operations(self, forwards: int) -> float:
        """Of a pair, in matrix products: 1 forward, or 2 with cached gradients (see measure.operations)."""
        llm = 2 * (forwards + 1) * self.layers * self.tokens
        return llm + 4 * self.head * self.learned + 2 * self.tower * self.patches


def exchanged(ranks: int, batch: int, dim: int, adapter: int) -> dict[str, float]:
    """MB that each rank sends in a step: embeddings, their gradients, the adapter's gradients.

    Rings: an all-gather of n bytes sends n·(r-1)/r a rank, an all-reduce twice that. Both towers, float32.
    """
    share = (ranks - 1) / ranks
    rows = 2 * batch * dim * 4
    return {"embeddings": rows * share / 1e6, "their gradients": 2 * rows * share / 1e6,
            "adapter": 2 * adapter * 4 * share / 1e6}  # fmt: skip


def seconds_of_step(ranks: int, rate: float, dim: int, adapter: int, bandwidth: float) -> tuple[float, float]:
    """Computing and sending in one step: `rate` pairs a second and device, `bandwidth` GB/s from each rank.

    seconds_of_step(8, rate=4.0, dim=4096, adapter=40_000_000, bandwidth=25.0)    # (32.0, 0.015)
    """
    return BATCH / ranks / rate, sum(exchanged(ranks, BATCH, dim, adapter).values()) / 1e3 / bandwidth


def by_ranks(rate: float, dim: int, adapter: int, chosen: Namespace, price: float) -> str:
    """The run's hours and dollars, `price` an hour and rank, at each number of ranks, with what is sent."""
    rows = [["ranks", "pairs a rank and step", "hours", "dollars", "MB sent a rank and step", "of the step's time"]]
    for ranks in RANKS:
        compute, talk = seconds_of_step(ranks, rate, dim, adapter, chosen.bandwidth)
        whole = PAIRS * EPOCHS / BATCH * (compute + talk) / 3600
        sent = talk * chosen.bandwidth * 1e3
        rows.append([str(ranks), f"{BATCH / ranks:g}", f"{whole:,.0f}", f"{whole * ranks * price:,.0f}",
                     f"{sent:.1f}", f"{100 * talk / (compute + talk):.2g} %"])  # fmt: skip
    return table(rows)


def devices(paper: Paper, measured: dict[str, Any], chosen: Namespace) -> str:
    """The paper's run on one device of each kind: the machine that was measured, and GPUs at the assumed share."""
    each = paper.operations(_forwards(chosen)) / 1e12
    speeds = [
        ("the machine above, at the speed measured there", measured["tflops"][chosen.way], _price(measured, chosen)),
        *(
            (f"{name}: {100 * chosen.share:.0f} % of it, assumed", chosen.share * peak, chosen.price)
            for name, peak in DEVICES.items()
        ),
    ]
    rows = [["device", "TFLOP/s", "pairs a second", "hours of one device", "dollars"]]
    for name, speed, dollars in speeds:
        hours = PAIRS * EPOCHS * each / speed / 3600
        rows.append([name, f"{speed:.3g}", f"{speed / each:.3g}", f"{hours:,.0f}", f"{hours * dollars:,.0f}"])
    return table(rows)


def _forwards(chosen: Namespace) -> int:
    return 2 if chosen.way == "cached" else 1


def _price(measured: dict[str, Any], chosen: Namespace) -> float:
    return chosen.cpu_price if measured["device"] == "cpu" else chosen.price


def written(measured: dict[str, Any], chosen: Namespace) -> str:
    """The page."""
    paper, way = Paper(), chosen.way
    each = paper.operations(_forwards(chosen)) / 1e12
    fast = chosen.share * DEVICES["A100, 312 TFLOP/s in bfloat16"] / each
    rate, dim, adapter = measured["pairs_a_second"][way], measured["dim"], measured["adapter_weights"]
    small = by_ranks(rate, dim, adapter, chosen, _price(measured, chosen))
    return f"""# The paper's run, on paper

Written by `python -m experiments.benchmarks.scaling`. {PAIRS / 1e6:g} million pairs × {EPOCHS} epochs at batch {BATCH:,} are
{PAIRS * EPOCHS // BATCH:,} steps. Assumed, not measured: {chosen.bandwidth:g} GB/s from each rank to the others,
${chosen.price:g} an hour of a GPU and ${chosen.cpu_price:g} of a machine of the kind measured, where that is a CPU, the
same rate a device at any batch size, and sending that waits for computing.
{NO_GPU if measured["device"] == "cpu" else ""}
## What was measured

`{measured["command"]}`, on {measured["machine"]}: {rate:.1f} pairs a second ({way}, {measured["shape"]}, batch
{measured["batch"]}), which is {measured["tflops"][way]:.3g} TFLOP/s in matrix products. A model of that shape,
a small one, would take for the paper's pairs:

{small}

## The paper's model: an estimate

LLaVA-1.5-7B costs {each:.1f} TFLOP a pair ({way}): {paper.layers / 1e9:.2f} billion weights in its layers,
{paper.tokens} tokens a pair (assumed: 576 of a picture, 100 of a long caption, 100 of prompts and a short one).

{devices(paper, measured, chosen)}

Over ranks, each an A100 at {100 * chosen.share:.0f} % of its peak, which is assumed:

{by_ranks(fast, paper.dim, paper.adapter, chosen, chosen.price)}

## What is communicated

A step gathers the embeddings of both towers, sends their gradients back to the ranks that own the rows, and averages
the adapter's gradients ({paper.adapter:,} weights of the paper's model) in one call. The frozen LVLM is never sent;
nor are logits: a rank computes its own rows against everybody's columns. In a step of the paper's model, MB a rank:

{_parts(paper)}

## Where it stops

{_limit(fast, paper, chosen)} At 256 ranks a rank has {BATCH // 256} pairs of a batch of {BATCH:,}, fewer than a device
needs to be busy, so the rate assumed above falls before the wires are full; and each rank still loads the whole LVLM.
What would be done then, in this order: a larger batch (cached gradients hold it, and the contrastive loss gains from
it); a reduce-scatter in place of the all-reduce of the embeddings' gradients, which halves that part; the adapter's
gradients sent while the last chunk still runs; beyond that, ranks in groups that share a batch's rows.
"""


def _parts(paper: Paper) -> str:
    rows = [["ranks", *exchanged(8, BATCH, paper.dim, paper.adapter)]]
    for ranks in RANKS[1:]:
        sent = exchanged(ranks, BATCH, paper.dim, paper.adapter)
        rows.append([str(ranks), *[f"{value:.1f}" for value in sent.values()]])
    return table(rows)


def _limit(rate: float, paper: Paper, chosen: Namespace) -> str:
    """From how many ranks on sending takes a fifth of the time of computing."""
    for ranks in range(2, BATCH + 1):
        compute, talk = seconds_of_step(ranks, rate, paper.dim, paper.adapter, chosen.bandwidth)
        if talk > 0.2 * compute:
            return f"From {ranks} ranks on, sending takes more than a fifth of the time of computing."
    return f"Up to {BATCH:,} ranks, one pair each, sending takes less than a fifth of the time of computing."


def main() -> None:
    """Writes the page."""
    chosen = arguments(
        __doc__, way="cached", price=2.0, cpu_price=0.1, bandwidth=25.0, share=0.4, out_file="docs/scaling.md",
        results=str(RESULTS),
    )  # fmt: skip
    text = written(read(Path(chosen.results) / "step.json"), chosen)
    atomic_write({Path(chosen.out_file): text.encode()})
    print(text)


if __name__ == "__main__":
    main()
