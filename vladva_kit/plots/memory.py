"""Memory as bars beside the cards that it must fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from vladva_kit.plots.style import BLUE, INK, ORANGE, SKY, STYLE
from vladva_kit.training.memory import CONTEXT, GIB, SLACK

if TYPE_CHECKING:
    from vladva_kit.training.memory import Memory

PARTS = {"weights": BLUE, "adapter": ORANGE, "activations": SKY}


@matplotlib.rc_context(STYLE)
def memory_bars(
    memories: Mapping[str, Memory], cards: Mapping[str, float], title: str = "Will a step of training fit?"
) -> Figure:
    """What a batch takes, part by part, cards as lines: `memory_bars({"batch 8": estimate_memory(…)}, {"T4": 15})`.

    `cards` in GiB. What CUDA and its allocator take on top is drawn too, as `largest_batch` reckons it.
    Raises ValueError for no memory.
    """
    if not memories:
        raise ValueError("no memory to draw: give {name: estimate_memory(…)}")
    figure = Figure(figsize=(7.0, 0.36 * len(memories) + 1.6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    for row, memory in enumerate(memories.values()):
        left = 0.0
        for part, color in PARTS.items():
            size = getattr(memory, part) / GIB
            axes.barh(row, size, left=left, height=0.66, color=color, label=part if row == 0 else None)
            left += size
        rest = (memory.total * SLACK + CONTEXT) / GIB - left
        axes.barh(
            row, rest, left=left, height=0.66, color="white", edgecolor=INK, hatch="////", linewidth=0.6,
            label="CUDA's own" if row == 0 else None,
        )  # fmt: skip
        axes.annotate(f"{left + rest:.1f}", (left + rest, row), (4, 0), textcoords="offset points", va="center")
    for name, size in cards.items():
        axes.axvline(size, color=INK, linestyle="--", linewidth=1.2)
        axes.annotate(name, (size, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points")
    axes.set_yticks(range(len(memories)), list(memories), fontsize=9, parse_math=False)
    axes.set_ylim(len(memories) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(axes.get_xlim()[1], *cards.values()))
    axes.set_xlabel("memory (GiB), estimated from the config")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure
