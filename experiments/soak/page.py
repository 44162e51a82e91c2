"""Write the page of the soak test from its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks.measure import table
from vladva_kit.models.files import atomic_write

RESULTS = Path(__file__).parent / "results.json"
PAGE = "reliability.md"
ABOUT = """# Reliability

What was tried to break the kit, and what happened. `make soak` repeats it in less than an hour on two cores; \
`make test` runs a short form of each part. The numbers are those of \
[results.json](../experiments/soak/results.json). [SECURITY.md](../SECURITY.md) lists what is promised and the test of \
each promise.
"""


def write_reliability(record: Mapping[str, Any], out: Path) -> Path:
    """Write OUT/reliability.md from the results of a soak test and return its path."""
    path = out / PAGE
    atomic_write({path: reliability_page(record).encode()})
    return path


def reliability_page(record: Mapping[str, Any]) -> str:
    """Return the page: `reliability_page(json.loads(RESULTS.read_text()))`."""
    parts = [ABOUT, *(_PARTS[name](record[name]) for name in _PARTS if name in record)]
    failed = failures_of(record)
    if failed:
        parts.append("## What failed\n\n" + "\n".join(f"- {line.replace('|', ' ')}" for line in failed) + "\n")
    where = f"{record['machine']} {record['load average']}"
    parts.append(f"`{record['command']}`, random seed {record['seed']}. {where}\n")
    return "\n".join(parts)


def failures_of(record: Mapping[str, Any]) -> list[str]:
    """List all failures: `failures_of(record) == []` if everything held."""
    tasks, kinds = record.get("kills", {}).get("tasks", {}), record.get("fuzz", {}).get("kinds", {})
    named = [*tasks.items(), *kinds.items()]
    found = [f"{name}: {line}" for name, count in named for line in count["failed"]]
    return found + [f"load: {line}" for line in record.get("load", {}).get("failed", [])]


def _kills(part: Mapping[str, Any]) -> str:
    rows = [["run", "SIGKILL", "SIGTERM", "resumed", "equal bit for bit", "failed"]]
    columns = ("kills", "terminated", "resumed", "equal")
    counts = part["tasks"].items()
    tasks = {name: [*(count[column] for column in columns), len(count["failed"])] for name, count in counts}
    tasks["all"] = [sum(column) for column in zip(*tasks.values(), strict=True)]
    rows += [[name, *map(str, numbers)] for name, numbers in tasks.items()]
    return f"""## Killed runs

{sum(tasks["all"][:2])} of {part["asked"]} planned kills in {_minutes(part)}, each at a random moment of a run. The \
same command then resumed the run; its adapter and history, embeddings, cases, captions or study records are compared \
with those of an uninterrupted run. A run that was killed twice counts once as resumed.

{table(rows)}
"""


def _fuzz(part: Mapping[str, Any]) -> str:
    rows = [["input", "tried", "used", "refused in one sentence", "failed", "slowest, s"]]
    kinds = part["kinds"]
    for name, count in kinds.items():
        numbers = (count["tried"], count["used"], count["refused"], len(count["failed"]))
        rows.append([name, *(f"{number:,}" for number in numbers), f"{count['slowest']:.2f}"])
    return f"""## Fuzzed inputs

{sum(count["tried"] for count in kinds.values()):,} of {part["asked"]:,} planned inputs in {_minutes(part)}, made by \
hypothesis: damaged image files, texts with control characters, halves of characters and other types, lines of \
metadata, adapters and manifests with changed values and bytes. An input fails if it hangs, is used wrongly, or raises \
anything but an error of one sentence.

{table(rows)}
"""


def _load(part: Mapping[str, Any]) -> str:
    done, memory = part["reported"], part["memory"]
    rows = [
        ["", "images", "captions"],
        ["broken", f"{part['broken']['images']:,}", f"{part['broken']['texts']:,}"],
        ["reported as broken", f"{done['skipped']:,}", f"{done['refused']:,}"],
        ["embedded", f"{done['images']:,}", f"{done['texts']:,}"],
    ]
    return f"""## A long run

{part["items"]:,} of {part["asked"]:,} planned images of five formats, each with a caption, in {_minutes(part)}.

{table(rows)}

After the first fifth the process held {memory["after warm-up"] / 1e6:.0f} MB, and at most \
{memory["highest"] / 1e6:.0f} MB later: {memory["growth"] - 1:+.1%}.
"""


def _minutes(part: Mapping[str, Any]) -> str:
    return f"{part['seconds'] / 60:.1f} minutes"


_PARTS = {"kills": _kills, "fuzz": _fuzz, "load": _load}
