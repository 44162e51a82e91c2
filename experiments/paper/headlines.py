"""The study's main results, one computed sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from experiments.paper.claims import CLAIMS, PARTLY, SUPPORTED, UNSUPPORTED
from experiments.paper.figures import TWIN_LOSS
from experiments.paper.plan import BASE, CLIP, CLIP_TUNED, FULL
from experiments.paper.tables import STYLES, Results, swap_scores, value_of

FIGURES = "figures"  # folder


def headlines(results: Results, figures: Sequence[str]) -> str:
    """Return the effect as a Markdown list, for the experiments that were run, and the main figure.

    print(headlines(results, list(claim_figures(results))))
    """
    lines = []
    for experiment, batches in (("components", "that require word order"), ("components-random", "of random pairs")):
        if experiment in results["experiments"]:
            base, full, clip = (_group(results, experiment, name) for name in (BASE, FULL, CLIP_TUNED))
            lines.append(
                f"- **Batches {batches}:** fine-tuning takes the LVLM's group score on Winoground from {base} to "
                f"{full} % (seen / unseen style); a CLIP trained on the same batches is at {clip} %."
            )
    lines += _sweeps(results)
    verdicts = Counter(claim.test(results).verdict for claim in CLAIMS)
    counted = ", ".join(f"{verdicts[one]} {one}" for one in (SUPPORTED, PARTLY, UNSUPPORTED))
    lines.append(f"- **Claims:** {counted}; the next table has one row each.")
    picture = [f"\n![Loss on test twins during training]({FIGURES}/{TWIN_LOSS}.png)"] if TWIN_LOSS in figures else []
    return "\n".join([*lines, *picture]) + "\n"


def _sweeps(results: Results) -> list[str]:
    """State the results of the sweeps that were run."""
    lines, experiments = [], results["experiments"]
    if "twins" in experiments:
        steps = [
            f"{_group(results, 'twins', name)} % with text → image R@1 {_recall(results, 'twins', name)}"
            for name in ("no twins in the data", "0.25 twins", "0.5 twins")
        ]
        lines.append(
            f"- **Twins trade retrieval for word order:** the group score is {steps[0]} without twins, {steps[1]} if a "
            f"quarter of each batch is twins, and {steps[2]} if half of it is."
        )
    if "swaps" in experiments:
        base, trained = (swap_scores(results)[name] for name in (BASE, "positions only"))
        other = ", ".join(f"{swap} {base[swap]} → {trained[swap]} %" for swap in ("noun", "color", "size"))
        lines.append(
            f"- **Swapped positions teach the other swaps:** trained on them only, the LVLM solves, by what a case "
            f"swaps: positions {base['positions']} → {trained['positions']} %, {other}."
        )
    if "clip-steps" in experiments:
        names = [variant["name"] for variant in experiments["clip-steps"]["variants"] if variant["name"] != CLIP]
        scores = ", ".join(f"{_group(results, 'clip-steps', name)} % ({name})" for name in names)
        lines.append(f"- **The CLIP on hard batches, by steps and learning rate:** {scores}.")
    return lines


def _group(results: Results, experiment: str, variant: str) -> str:
    return _both_styles(results, experiment, variant, "Winoground group")


def _recall(results: Results, experiment: str, variant: str) -> str:
    return _both_styles(results, experiment, variant, "text → image R@1")


def _both_styles(results: Results, experiment: str, variant: str, column: str) -> str:
    values = (value_of(results, experiment, variant, f"{column}, {style}") for style in STYLES)
    return " / ".join(f"{value.percent:.1f}" for value in values if value)
