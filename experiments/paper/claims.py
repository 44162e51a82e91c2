"""The paper's claims that the miniature can test, each with a rule that turns results into a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.paper.plan import BASE, BATCH_SIZES, BOTH, CLIP_ON, FULL, LONG, LORA, SOFT
from experiments.paper.tables import cells_of, compared, figure_of
from vladva_kit.evaluation.bootstrap import bootstrap_interval

HOLDS, PART, FAILS, MISSING = "holds", "holds in part", "does not hold here", "not measured"
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """What was found of a claim: the figures as text, and the verdict."""

    ours: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """A claim, the paper's figure for it, the experiment that tests it, its figure's file, and the rule."""

    text: str
    paper: str
    experiment: str
    figure: str
    rule: Callable[[Results], Found]

    def found(self, results: Results) -> Found:
        """The verdict on these results; "not measured" where the experiment was not run."""
        there = results.get("prompts") if self.experiment == "prompts" else self.experiment in results["experiments"]
        return self.rule(results) if there else Found("", MISSING)


RETRIEVAL = tuple(
    f"{way} R@1, {style}" for style in ("seen", "unseen style") for way in ("text → image", "image → text")
)
SEEN_RETRIEVAL = RETRIEVAL[:2]
SUGARCREPE = tuple(
    f"SugarCrepe {kind}, {style}" for style in ("seen", "unseen style") for kind in ("replace", "swap", "add")
)
WINOGROUND = tuple(
    f"Winoground {part}, {style}" for style in ("seen", "unseen style") for part in ("text", "image", "group")
)
TALK = ("question accuracy, adapter on, seen", "caption truth, adapter on, seen", "second turn, adapter on, seen")


def verdict_of(parts: Sequence[bool]) -> str:
    """All, some or none: `verdict_of([True, False]) == "holds in part"`."""
    if not parts:
        return MISSING
    return HOLDS if all(parts) else PART if any(parts) else FAILS


def gain(
    experiment: str, first: str, second: str, columns: Sequence[str], wanted: Sequence[str] = ("above",)
) -> Callable:
    """A rule: in each column row `second` must come out as wanted against row `first`, by the paired interval.

    wanted: of "above", "level", "below"; ("above", "level") is "no worse that can be shown".
    """

    def rule(results: Results) -> Found:
        said, parts = [], []
        for column in columns:
            found = compared(results, experiment, first, second, column)
            if found is None:
                continue
            figures = (figure_of(results, experiment, row, column) for row in (first, second))
            before, after = (f"{one.mean:.1f}" for one in figures if one is not None)
            said.append(f"{column}: {before} → {after} ({found})")
            parts.append(found.outcome in wanted)
        return Found("; ".join(said), verdict_of(parts))

    return rule


def every(*rules: Callable[[Results], Found]) -> Callable[[Results], Found]:
    """A rule of several: their verdict where they agree, "not measured" where one is, else in part."""

    def rule(results: Results) -> Found:
        founds = [one(results) for one in rules]
        if any(found.verdict == MISSING for found in founds):
            verdict = MISSING
        elif all(found.verdict == founds[0].verdict for found in founds):
            verdict = founds[0].verdict
        else:
            verdict = PART
        return Found("; ".join(found.ours for found in founds), verdict)

    return rule


def collapse(results: Results) -> Found:
    """Contrastive on long captions: over the last tenth of the steps its loss is under 0.05 nats, and under half of
    that on short captions; one of the two is in part."""
    last = {}
    for row in ("short captions", "long captions"):
        curves = [cell["history"]["contrastive"] for cell in cells_of(results, "collapse", row)]
        last[row] = float(np.mean([np.mean(curve[-max(1, len(curve) // 10) :]) for curve in curves]))
    steps = len(curves[0])
    short, long = last.values()
    said = f"loss over the last tenth of {steps} steps: {long:.3f} nats on long captions, {short:.3f} on short ones"
    return Found(said, verdict_of([long < 0.05, long < short / 2]))


def rises(key: str, unit: str, scale: float = 1.0) -> Callable[[Results], Found]:
    """A rule: a figure that each picture or caption has must be higher after training, paired, by its interval.

    key: of a cell's "inside"; values by side, or of the pictures alone.
    """

    def rule(results: Results) -> Found:
        before = cells_of(results, "components", BASE)[0]["inside"][key]
        after = [cell["inside"][key] for cell in cells_of(results, "components", FULL)]
        sides = before if isinstance(before, Mapping) else {"": before}
        said, parts = [], []
        for side, values in sides.items():
            old = scale * np.array(values)
            new = scale * np.mean([one[side] if side else one for one in after], axis=0)
            low, high = (end / 100 for end in bootstrap_interval(new - old))
            name = {"image": "pictures: ", "text": "captions: ", "": ""}[side]
            gained = f"{(new - old).mean():+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
            said.append(f"{name}{old.mean():.2f} → {new.mean():.2f} {unit} ({gained})")
            parts.append(low > 0)
        return Found("; ".join(said), verdict_of(parts))

    return rule


def spreads(results: Results) -> Found:
    """The effective rank is higher after training, for pictures and for captions, from every seed."""
    before = cells_of(results, "components", BASE)[0]["inside"]["effective_rank"]
    after = [cell["inside"]["effective_rank"] for cell in cells_of(results, "components", FULL)]
    said, parts = [], []
    for side, name in (("image", "pictures"), ("text", "captions")):
        ranks = [one[side] for one in after]
        said.append(f"{name}: effective rank {before[side]:.1f} → {', '.join(f'{rank:.1f}' for rank in ranks)}")
        parts.append(min(ranks) > before[side])
    return Found("; ".join(said), verdict_of(parts))


def same_sentence(results: Results) -> Found:
    """The nearest word of at least 8 in 10 soft rows is still the hand-written one; in part: of at least half."""
    cells = cells_of(results, "components", FULL)
    parts = [cell["inside"]["prompt"][side]["unchanged"] for cell in cells for side in ("image", "text")]
    read = " ".join(cells[0]["inside"]["prompt"]["image"]["nearest"])
    share = float(np.mean(parts))
    said = f"{100 * share:.0f} % of the rows keep their word; the picture's prompt reads: {read}"
    return Found(said, HOLDS if share >= 0.8 else PART if share >= 0.5 else FAILS)


def open_prompts(results: Results) -> Found:
    """The interval of Spearman's and of Pearson's coefficient lies above 0."""
    found = {name: one for name, one in results["prompts"]["correlations"].items() if one}
    said = [
        f"{name.capitalize()} {one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for name, one in found.items()
    ]
    return Found("; ".join(said).replace("-", "−"), verdict_of([one["low"] > 0 for one in found.values()]))


def bit_equal(results: Results) -> Found:
    """Every trained cell of the LVLM gave, with its adapter off, what it gave before anything was attached."""
    trained = [cell for cell in results["cells"].values() if "adapter_off_equal" in cell]
    equal = [bool(cell["adapter_off_equal"]) for cell in trained]
    return Found(f"{sum(equal)} of {len(equal)} trained models: embeddings and answers bit-equal", verdict_of(equal))


def _both(first: str, second: str) -> Callable[[Results], Found]:
    return gain("components", first, second, RETRIEVAL)


NONE = "no figure"
CLAIMS = (
    Claim(
        "Fine-tuned, an LVLM retrieves far better than with a hand-written prompt",
        "Flickr30k R@1, LLaVA-1.5-7B: text → image 59.6 → 85.0, image → text 65.6 → 94.3",
        "components", "retrieval", _both(BASE, FULL),
    ),
    Claim("A soft prompt alone gives much of it", "1M pairs: 59.6 → 76.7, 65.6 → 91.7", "components", "retrieval",
          _both(BASE, SOFT)),
    Claim("… with ten times the learning rate of LoRA", NONE, "soft-prompt-rate", "soft-prompt-rate",
          gain("soft-prompt-rate", BASE, "rate 0.005", RETRIEVAL)),
    Claim("LoRA gives more than a soft prompt", "76.7 → 79.1, 91.7 → 91.4", "components", "retrieval",
          _both(SOFT, LORA)),
    Claim("Both together are no worse than LoRA", "79.1 → 79.6, 91.4 → 92.9", "components", "retrieval",
          gain("components", LORA, BOTH, RETRIEVAL, ("above", "level"))),
    Claim(
        "The order base < soft prompt < LoRA ≤ both", "59.6 < 76.7 < 79.1 ≤ 79.6, 65.6 < 91.7 > 91.4 ≤ 92.9",
        "components", "retrieval",
        every(_both(BASE, SOFT), _both(SOFT, LORA), gain("components", LORA, BOTH, RETRIEVAL, ("above", "level"))),
    ),
    Claim("The next-token loss helps composition", "SugarCrepe replace/swap/add 87.1/72.0/88.6 → 89.5/75.5/89.5",
          "components", "composition", gain("components", BOTH, FULL, SUGARCREPE)),
    Claim("The next-token loss costs image → text a little and helps text → image",
          "text → image 79.6 → 80.6, image → text 92.9 → 91.8", "components", "retrieval",
          every(gain("components", BOTH, FULL, ("text → image R@1, seen",)),
                gain("components", BOTH, FULL, ("image → text R@1, seen",), ("below",)))),
    Claim("The fine-tune helps composition", "SugarCrepe replace/swap/add 81.9/59.8/64.7 → 89.5/75.5/89.5 (1M pairs)",
          "components", "composition", gain("components", BASE, FULL, SUGARCREPE)),
    Claim("The fine-tune helps on Winoground", "text/image/group 18.5/11.3/6.5 → 40.5/17.5/12.8", "components",
          "composition", gain("components", BASE, FULL, WINOGROUND)),
    Claim("It composes better than a CLIP", "Winoground, CLIP ViT-L against VladVA-7B: 27.5/12.3/8.3, 40.5/17.5/12.8",
          "components", "composition", gain("components", CLIP_ON, FULL, WINOGROUND)),
    Claim("A contrastive loss on long captions collapses", "loss near 0 within a few hundred steps", "collapse",
          "collapse", collapse),
    Claim("… and retrieves worse than on short ones", NONE, "components", "retrieval",
          gain("components", BOTH, LONG, RETRIEVAL, ("below",))),
    Claim("… after the collapse too", NONE, "collapse", "collapse",
          gain("collapse", "short captions", "long captions", RETRIEVAL, ("below",))),
    Claim("The summary token's attention over the picture grows denser", NONE, "components", "attention-density",
          rises("density_by_picture", "% of the picture's tokens", 100)),
    Claim("The entropy of its next word rises", NONE, "components", "entropy", rises("entropy", "nats")),
    Claim("The embeddings spread over more principal components", NONE, "components", "variance", spreads),
    Claim("A trained soft prompt reads as almost the same sentence", NONE, "components", "", same_sentence),
    Claim("Prompts with a higher next-token entropy retrieve better, before any training", NONE, "prompts", "prompts",
          open_prompts),
    Claim("With the adapter off the LVLM is what it was", NONE, "components", "", bit_equal),
    Claim("With the adapter on it talks no worse", NONE, "generation", "generation",
          gain("generation", BASE, FULL, TALK, ("above", "level"))),
    Claim("A learned temperature beats a fixed 0.05", "of baselines: +1.2 to +1.4 points", "temperature", "temperature",
          gain("temperature", "fixed 0.05", "learned from 0.07", RETRIEVAL)),
    Claim("Larger batches retrieve better, for as many pairs and so fewer updates", "batch 1,024; not varied",
          "batch-size", "batch-size",
          gain("batch-size", "batch 16", f"batch {BATCH_SIZES[-1]}", RETRIEVAL)),
    Claim("More data retrieve better, for as many steps", "8.1M pairs; 1M in the ablation", "data-size", "data-size",
          gain("data-size", "150 pairs", "all pairs", RETRIEVAL)),
    Claim("LoRA of rank 16 does better than of rank 1", "rank 16; not varied", "rank", "rank",
          gain("rank", "rank 1", "rank 16", RETRIEVAL)),
    Claim("A next-token loss of weight 3 is no better in composition than the plain sum", "plain sum; not varied",
          "next-token-weight", "next-token-weight",
          gain("next-token-weight", "weight 1", "weight 3", SUGARCREPE, ("below", "level"))),
    Claim("Swapped captions as hard negatives teach composition", "not in the paper", "negatives", "negatives",
          gain("negatives", "without", "with swapped captions", (*WINOGROUND, *SUGARCREPE))),
)  # fmt: skip
