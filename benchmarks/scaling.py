"""docs/scaling.md, from measured throughput: the paper's run in hours and money, what ranks exchange, where it ends.

python -m benchmarks.step …              first, on the machine that is meant
python -m benchmarks.scaling --price 2.5     dollars an hour for one GPU
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import RESULTS, arguments, read, table
from vladva_kit.files import write_whole

PAIRS, EPOCHS, BATCH = 8_100_000, 7, 1024  # the paper's (section 4.1)
RANKS = (1, 8, 32, 256)


def exchanged(ranks: int, batch: int, dim: int, adapter: int) -> dict[str, float]:
    """MB that each rank sends in a step: embeddings, their gradients, the adapter's gradients.

    Rings: an all-gather of n bytes sends n·(r-1)/r a rank, an all-reduce twice that. Both towers, float32.
    """
    share = (ranks - 1) / ranks
    rows = 2 * batch * dim * 4
    return {"embeddings": rows * share / 1e6, "their gradients": 2 * rows * share / 1e6,
            "adapter": 2 * adapter * 4 * share / 1e6}  # fmt: skip


def main() -> None:
    """Writes the page."""
    chosen = arguments(
        __doc__, way="cached", price=2.0, bandwidth=25.0, out_file="docs/scaling.md", results=str(RESULTS)
    )
    measured = read(Path(chosen.results) / "step.json")
    rate, dim, adapter = measured["pairs_a_second"][chosen.way], measured["dim"], measured["adapter_weights"]
    hours = PAIRS * EPOCHS / rate / 3600
    rows = [["ranks", "pairs a rank and step", "hours", "dollars", "MB sent a rank and step", "of the step's time"]]
    for ranks in RANKS:
        sent = sum(exchanged(ranks, BATCH, dim, adapter).values())
        compute, talk = BATCH / ranks / rate, sent / 1e3 / chosen.bandwidth
        whole = PAIRS * EPOCHS / BATCH * (compute + talk) / 3600
        rows.append([str(ranks), f"{BATCH / ranks:g}", f"{whole:.0f}", f"{whole * ranks * chosen.price:.0f}",
                     f"{sent:.1f}", f"{100 * talk / (compute + talk):.1f} %"])  # fmt: skip
    limit = next((r for r in range(1, BATCH + 1) if 2 * BATCH / r / rate * 0.1 < _talk(r, dim, adapter, chosen)), None)
    text = f"""# The paper's run, on paper

Written by `python -m benchmarks.scaling` from `{measured["command"]}`, measured on {measured["machine"]}:
{rate:.1f} pairs a second ({chosen.way}, {measured["shape"]}, batch {measured["batch"]}). Assumed, not measured:
{chosen.bandwidth:g} GB/s between ranks, ${chosen.price:g} an hour and device, the same rate a device at any batch size.

{PAIRS / 1e6:g} million pairs × {EPOCHS} epochs at batch {BATCH:,} are {PAIRS * EPOCHS // BATCH:,} steps:
{hours:.0f} hours on one device.

{table(rows)}

**What is communicated.** Each step gathers the embeddings of both towers, sends their gradients back to the ranks that
own the rows, and averages the adapter's gradients ({adapter:,} weights) in one call. The frozen LVLM is never sent; nor
are logits: a rank computes its own rows against everybody's columns.

**Where it stops.** {_words(limit)} At 256 ranks a rank has {BATCH // 256} pairs of a batch of {BATCH:,}, fewer than a
device needs to be busy, so the rate assumed above falls before the wires are full. What would be done then: a larger
batch (cached gradients hold it), a reduce-scatter in place of the all-reduce of the embeddings' gradients, and the
adapter's gradients sent while the last chunk is still running.
"""
    write_whole({Path(chosen.out_file): text.encode()})
    print(text)


def _talk(ranks: int, dim: int, adapter: int, chosen) -> float:
    return sum(exchanged(ranks, BATCH, dim, adapter).values()) / 1e3 / chosen.bandwidth


def _words(limit: int | None) -> str:
    if limit is None:
        return f"Up to {BATCH:,} ranks, one pair each, sending takes less than a fifth of computing."
    return f"At {limit} ranks sending takes a fifth of computing."


if __name__ == "__main__":
    main()
