"""Figures of a study: loss curves of several runs, prompts by entropy, the variance before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from vladva_kit.plots.style import BLUE, INK, ORANGE, STYLE, VERMILION, wrapped


@matplotlib.rc_context(STYLE)
def loss_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Figure:
    """Contrastive loss over the steps, a color a row, a line a seed: `loss_curves({"+ both": histories}, …)`.

    `curves[row]` are the histories of its seeds, each {"step": […], "contrastive": […]}.
    """
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    for place, (row, histories) in enumerate(curves.items()):
        style = ("-", "--", "-.", ":")[place % 4]  # told apart without color too
        for seed, history in enumerate(histories):
            label = None if seed else row
            axes.plot(history["step"], history["contrastive"], style, color=(BLUE, VERMILION)[place % 2], label=label)
    axes.set(xlabel="training step", ylabel="contrastive loss (nats, log scale)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own writes powers, which need its reading of formulae
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
def prompt_scatter(study: Mapping[str, Any], title: str = "Do less certain prompts retrieve better?") -> Figure:
    """Entropy against zero-shot R@1, a dot a prompt, with the correlation: `prompt_scatter(results["prompts"])`."""
    prompts, correlations = study["prompts"], study["correlations"]
    entropy = [(one["image_entropy"] + one["text_entropy"]) / 2 for one in prompts]
    recall = [(one["image_to_text"] + one["text_to_image"]) / 2 for one in prompts]
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    axes.plot(entropy, recall, "o", color=BLUE, alpha=0.75, markeredgecolor="white")
    for place in (int(np.argmax(recall)), int(np.argmin(recall))):
        left = entropy[place] < (min(entropy) + max(entropy)) / 2  # its words stand on the side that has room
        axes.annotate(
            wrapped(prompts[place]["image_prompt"], 26), (entropy[place], recall[place]), (6 if left else -6, 0),
            textcoords="offset points", fontsize=8, color=INK, va="center", ha="left" if left else "right",
        )  # fmt: skip
    axes.margins(0.1)
    said = [
        f"{name.capitalize()} {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
        for name, found in correlations.items()
        if found
    ]
    axes.set_title("; ".join(said).replace("-", "−"), fontweight="normal", fontsize=9)
    axes.set(xlabel="entropy of the summary token's next word (nats)", ylabel="zero-shot R@1, both ways (%)")
    axes.grid(alpha=0.3)
    return figure


@matplotlib.rc_context(STYLE)
def variance_before_after(
    before: Mapping[str, Any], after: Mapping[str, Any], title: str = "Over how many directions the embeddings spread"
) -> Figure:
    """Cumulative variance of both towers' embeddings, before and after: {"image": (components,), "text": …}."""
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    figure.suptitle(title)
    for axes, (side, said) in zip(
        figure.subplots(1, 2, sharey=True), (("image", "pictures"), ("text", "captions")), strict=True
    ):
        for values, label, color, line in ((before, "before", ORANGE, "--"), (after, "after", BLUE, "-")):
            shares = 100 * np.asarray(values[side], dtype=float)
            axes.plot(np.arange(1, len(shares) + 1), shares, line, color=color, label=f"{label} training")
        axes.set_title(said, fontweight="normal")
        axes.set(xlabel="principal components", ylim=(0, 101))
        axes.grid(alpha=0.3)
        if side == "image":
            axes.set_ylabel("variance held (%)")
            axes.legend(loc="lower right")
    return figure
