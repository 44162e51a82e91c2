"""Draw the README's first figure: cases that the fine-tune fixes, with the counts of all cases.

python docs/hero.py                              # the shipped adapter
python docs/hero.py runs/demo/adapter hero.png
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import vladva_kit as vk
from vladva_kit.evaluation import WinogroundCase, WinogroundResult
from vladva_kit.evaluation.overview import count_changes
from vladva_kit.plots.style import INK, as_png, show_image, styled, wrap_text

ROOT = Path(__file__).resolve().parents[1]
RIGHT, WRONG = "#0b6e4f", "#b3261e"
N_CASES = 6


def fixed_cases(base: WinogroundResult, tuned: WinogroundResult, n: int = N_CASES) -> list[tuple[WinogroundCase, int]]:
    """Select cases that only the fine-tuned model solves, of different kinds, with a caption that misleads the base.

    The second value says which caption, 0 or 1.
    """
    after = {case.id: case for case in tuned.cases}
    by_kind: dict[str, list[tuple[WinogroundCase, int]]] = {}
    for case in base.cases:
        for caption in (0, 1):
            prefers_other = case.similarities[1 - caption][caption] > case.similarities[caption][caption]
            if prefers_other and after[case.id].group_margin > 0:
                by_kind.setdefault(case.tags["tag"], []).append((case, caption))
                break
    kinds = list(by_kind.values())
    return [kinds[i % len(kinds)][i // len(kinds)] for i in range(n)]


@styled
def hero(cases: Sequence[tuple[WinogroundCase, int]], title: str) -> Figure:
    """Draw each caption with the image that the base picks, above the image that the fine-tuned model picks."""
    figure = Figure(figsize=(2.05 * len(cases) + 0.9, 5.6), layout="constrained")
    figure.suptitle(title, fontsize=15, color=INK)
    panels = figure.subplots(2, len(cases))
    for column, (case, caption) in enumerate(cases):
        for row, (image, color, mark) in enumerate(((1 - caption, WRONG, "✗"), (caption, RIGHT, "✓"))):
            axes = panels[row, column]
            show_image(axes, case.images[image])
            frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=color, linewidth=5)
            axes.add_patch(frame)
            axes.text(0.93, 0.9, mark, transform=axes.transAxes, ha="right", va="top", fontsize=20, color="white",
                      bbox={"boxstyle": "circle,pad=0.15", "facecolor": color, "edgecolor": "white"})  # fmt: skip
        panels[0, column].set_title(wrap_text(case.captions[caption], 22), fontsize=11, fontweight="normal")
    for row, label in enumerate(("base", "fine-tuned")):
        panels[row, 0].set_ylabel(label, fontsize=13)
    return figure


def main(adapter: str = "emoji-llava-vladva", out: Path = ROOT / "docs" / "images" / "hero.png") -> None:
    """Evaluate the base and the adapter on the unseen style, and write the figure."""
    tuned = vk.Embedder.from_pretrained(adapter)
    folder = vk.sample("winoground_mini") / "unseen_style"
    after = vk.evaluate_winoground(tuned, folder)
    with tuned.base():
        before = vk.evaluate_winoground(tuned, folder)
    fixed, broken = count_changes(before, after, "group")
    title = (
        "Two images, two captions with the same words: which image does a caption describe?\n"
        f"Winoground with emoji, in a style never trained on: {before.group.percent:.0f} → {after.group.percent:.0f} % "
        f"({fixed} cases fixed, {broken} broken)"
    )
    picture = Image.open(io.BytesIO(as_png(hero(fixed_cases(before, after), title), dpi=110))).convert("RGB")
    picture.quantize(256).save(out, optimize=True)  # a palette takes less than half the bytes


if __name__ == "__main__":
    main(*sys.argv[1:3])
