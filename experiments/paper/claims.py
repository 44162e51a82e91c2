"""The paper's claims that the study can test, each with a rule that turns results into a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.paper.plan import (
    BASE,
    BATCH_SIZES,
    BOTH,
    CLIP,
    CLIP_FASTER,
    CLIP_TUNED,
    DISTILLED,
    FULL,
    LONG,
    LORA,
    N_EQUALITY_IMAGES,
    POOLS,
    SOFT,
    Plan,
)
from experiments.paper.tables import (
    GENERATION,
    RETRIEVAL,
    SUGARCREPE,
    WINOGROUND,
    Results,
    gain_of,
    runs_of,
    value_of,
)
from vladva_kit.evaluation.bootstrap import bootstrap_interval

SUPPORTED, PARTLY, UNSUPPORTED, NOT_MEASURED = "supported", "partly supported", "not supported", "not measured"
SIDES = {"image": "images", "text": "captions"}
HEADLINES = ("Winoground group, unseen style", "text → image R@1, unseen style")  # shown for a claim on many scores


@dataclass(frozen=True)
class Finding:
    """What the study finds on a claim: the values as text, the verdict, and the values in a few words."""

    evidence: str
    verdict: str
    short: str = ""  # "": the evidence is short enough


Rule = Callable[[Results], Finding]


@dataclass(frozen=True)
class Claim:
    """A claim, the paper's value for it, the experiment that tests it, the figure that shows it, and the rule."""

    text: str
    paper: str
    experiment: str
    figure: str  # file name without suffix; "": none
    rule: Rule

    def test(self, results: Results) -> Finding:
        """Apply the rule: `claim.test(results).verdict`; "not measured" if the experiment was not run."""
        run = results.get("prompts") if self.experiment == "prompts" else self.experiment in results["experiments"]
        return self.rule(results) if run else Finding("", NOT_MEASURED)


def verdict_of(parts: Sequence[bool]) -> str:
    """Combine the outcomes of a claim's parts: `verdict_of([True, False]) == "partly supported"`.

    Partial support needs at least half of the parts.
    """
    if not parts:
        return NOT_MEASURED
    return SUPPORTED if all(parts) else PARTLY if 2 * sum(parts) >= len(parts) else UNSUPPORTED


def expect(
    experiment: str, first: str, second: str, columns: Sequence[str], outcomes: Sequence[str] = ("higher",)
) -> Rule:
    """Return a rule: in each column, variant `second` must compare to `first` with one of these outcomes.

    outcomes: of "higher", "n.s.", "lower", by the paired interval; ("higher", "n.s.") means "no worse".
    """

    def rule(results: Results) -> Finding:
        texts, parts, changes = [], [], {}
        for column in columns:
            difference = gain_of(results, experiment, first, second, column)
            if difference is None:
                continue
            before, after = (value_of(results, experiment, variant, column) for variant in (first, second))
            changes[column] = f"{column}: {before.percent:.1f} → {after.percent:.1f}"
            texts.append(f"{changes[column]} ({difference})")
            parts.append(difference.outcome in outcomes)
        example = next((changes[column] for column in (*HEADLINES, *changes) if column in changes), "")
        return Finding("; ".join(texts), verdict_of(parts), f"{sum(parts)} of {len(parts)} scores agree; {example}")

    return rule


def all_of(*rules: Rule) -> Rule:
    """Return a rule that combines others: their verdict if they agree, else "partly supported"."""

    def rule(results: Results) -> Finding:
        findings = [one(results) for one in rules]
        verdicts = {finding.verdict for finding in findings}
        verdict = NOT_MEASURED if NOT_MEASURED in verdicts else verdicts.pop() if len(verdicts) == 1 else PARTLY
        short = dict.fromkeys(finding.short for finding in findings)
        return Finding("; ".join(finding.evidence for finding in findings), verdict, "; then ".join(short))

    return rule


def collapses(results: Results) -> Finding:
    """Test that the loss on long captions ends below 0.05 nats, and below half of the loss on short captions.

    The loss is averaged over the last tenth of the steps. One of the two conditions is partial support.
    """
    last = {}
    for variant in ("short captions", "long captions"):
        curves = [record["history"]["contrastive"] for record in runs_of(results, "collapse", variant)]
        last[variant] = float(np.mean([np.mean(curve[-max(1, len(curve) // 10) :]) for curve in curves]))
    short, long = last.values()
    text = f"loss over the last tenth of {len(curves[0])} steps: {long:.3f} nats on long captions, {short:.3f} on short"
    return Finding(text, verdict_of([long < 0.05, long < short / 2]))


def rises(key: str, unit: str, scale: float = 1.0) -> Rule:
    """Return a rule: a value per image or caption must be higher after training, by its paired interval.

    key: in a record's "representations"; the values may be given per side.
    """

    def rule(results: Results) -> Finding:
        before = runs_of(results, "components", BASE)[0]["representations"][key]
        after = [record["representations"][key] for record in runs_of(results, "components", FULL)]
        texts, parts = [], []
        for side in before if isinstance(before, Mapping) else [""]:
            old = scale * np.array(before[side] if side else before)
            new = scale * np.mean([one[side] if side else one for one in after], axis=0)
            low, high = (end / 100 for end in bootstrap_interval(new - old))
            name = f"{SIDES[side]}: " if side else ""
            change = f"{(new - old).mean():+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
            texts.append(f"{name}{old.mean():.2f} → {new.mean():.2f} {unit} ({change})")
            parts.append(low > 0)
        return Finding("; ".join(texts), verdict_of(parts))

    return rule


def spreads(results: Results) -> Finding:
    """Test that every seed raises the effective rank of image and of text embeddings."""
    before = runs_of(results, "components", BASE)[0]["representations"]["effective_rank"]
    after = [record["representations"]["effective_rank"] for record in runs_of(results, "components", FULL)]
    texts, parts = [], []
    for side, name in SIDES.items():
        ranks = [one[side] for one in after]
        texts.append(f"{name}: effective rank {before[side]:.1f} → {', '.join(f'{rank:.1f}' for rank in ranks)}")
        parts.append(min(ranks) > before[side])
    return Finding("; ".join(texts), verdict_of(parts))


def prompt_unchanged(results: Results) -> Finding:
    """Test that at least 80 % of the soft-prompt vectors stay nearest to their hand-written word; partly: 50 %."""
    records = runs_of(results, "components", FULL)
    share = float(np.mean([one["representations"]["prompt"][side]["unchanged"] for one in records for side in SIDES]))
    nearest = " ".join(records[0]["representations"]["prompt"]["image"]["nearest"])
    text = f"{100 * share:.0f} % of the vectors keep their word; nearest words of the image prompt: {nearest}"
    return Finding(text, SUPPORTED if share >= 0.8 else PARTLY if share >= 0.5 else UNSUPPORTED)


def entropy_correlates(results: Results) -> Finding:
    """Test that the intervals of Spearman's and of Pearson's correlation are above 0."""
    correlations = {name: one for name, one in results["prompts"]["correlations"].items() if one}
    texts = [
        f"{name.capitalize()} {one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
        for name, one in correlations.items()
    ]
    return Finding("; ".join(texts).replace("-", "−"), verdict_of([one["low"] > 0 for one in correlations.values()]))


def adapter_off_equal(results: Results) -> Finding:
    """Test that every trained LVLM, with its adapter off, equals the base."""
    equal = [bool(record["adapter_off_equal"]) for record in results["runs"].values() if "adapter_off_equal" in record]
    text = (
        f"{sum(equal)} of {len(equal)} trained models: embeddings and answers for {N_EQUALITY_IMAGES} images are "
        "bit-identical"
    )
    return Finding(text, verdict_of(equal))


def _retrieval(first: str, second: str, outcomes: Sequence[str] = ("higher",)) -> Rule:
    return expect("components", first, second, RETRIEVAL, outcomes)


NO_WORSE = ("higher", "n.s.")
NOT_REPORTED = "not reported"
CLAIMS = (
    Claim("A fine-tuned LVLM retrieves better than the same LVLM with a hand-written prompt",
          "Flickr30k R@1, LLaVA-1.5-7B: text → image 59.6 → 85.0, image → text 65.6 → 94.3",
          "components", "retrieval", _retrieval(BASE, FULL)),
    Claim("A soft prompt alone improves retrieval", "1M pairs: text → image 59.6 → 76.7, image → text 65.6 → 91.7",
          "components", "retrieval", _retrieval(BASE, SOFT)),
    Claim("… at 50 times LoRA's learning rate", NOT_REPORTED, "soft-prompt-rate", "soft-prompt-rate",
          expect("soft-prompt-rate", BASE, "learning rate 0.05", RETRIEVAL)),
    Claim("LoRA gains more than a soft prompt", "text → image 76.7 → 79.1, image → text 91.7 → 91.4", "components",
          "retrieval", _retrieval(SOFT, LORA)),
    Claim("Soft prompt and LoRA together are no worse than LoRA", "text → image 79.1 → 79.6, image → text 91.4 → 92.9",
          "components", "retrieval", _retrieval(LORA, BOTH, NO_WORSE)),
    Claim("The order is base < soft prompt < LoRA ≤ both",
          "text → image 59.6 < 76.7 < 79.1 ≤ 79.6, image → text 65.6 < 91.7 > 91.4 ≤ 92.9",
          "components", "retrieval",
          all_of(_retrieval(BASE, SOFT), _retrieval(SOFT, LORA), _retrieval(LORA, BOTH, NO_WORSE))),
    Claim("The next-token loss improves composition", "SugarCrepe replace/swap/add 87.1/72.0/88.6 → 89.5/75.5/89.5",
          "components", "composition", expect("components", BOTH, FULL, SUGARCREPE)),
    Claim("The next-token loss improves text → image retrieval and slightly lowers image → text",
          "text → image 79.6 → 80.6, image → text 92.9 → 91.8", "components", "retrieval",
          all_of(expect("components", BOTH, FULL, ("text → image R@1, seen",)),
                 expect("components", BOTH, FULL, ("image → text R@1, seen",), ("lower",)))),
    Claim("Fine-tuning improves SugarCrepe", "replace/swap/add 81.9/59.8/64.7 → 89.5/75.5/89.5 (1M pairs)",
          "components", "composition", expect("components", BASE, FULL, SUGARCREPE)),
    Claim("Fine-tuning improves Winoground", "text/image/group 18.5/11.3/6.5 → 40.5/17.5/12.8",
          "components", "composition", expect("components", BASE, FULL, WINOGROUND)),
    Claim("The fine-tuned LVLM beats a fine-tuned CLIP on Winoground",
          "text/image/group: CLIP ViT-L 27.5/12.3/8.3, VladVA-7B 40.5/17.5/12.8",
          "components", "composition", expect("components", CLIP_TUNED, FULL, WINOGROUND)),
    Claim("A contrastive loss on long captions collapses", "loss near 0 within a few hundred steps",
          "collapse", "collapse", collapses),
    Claim("… and retrieves worse than one on short captions", NOT_REPORTED, "components-random", "retrieval",
          expect("components-random", BOTH, LONG, RETRIEVAL, ("lower",))),
    Claim("… also after the collapse", NOT_REPORTED, "collapse", "collapse",
          expect("collapse", "short captions", "long captions", RETRIEVAL, ("lower",))),
    Claim("The summary token's attention to the image becomes denser", NOT_REPORTED, "components",
          "attention-density", rises("density_per_image", "% of the image tokens", 100)),
    Claim("The entropy of the summary token's next word rises", NOT_REPORTED, "components", "entropy",
          rises("entropy", "nats")),
    Claim("The embeddings spread over more principal components", NOT_REPORTED, "components", "variance", spreads),
    Claim("A trained soft prompt stays close to the hand-written one", NOT_REPORTED, "components", "",
          prompt_unchanged),
    Claim("Before training, prompts with a higher next-token entropy retrieve better", NOT_REPORTED,
          "prompts", "prompts", entropy_correlates),
    Claim("With the adapter off, the LVLM equals the base", NOT_REPORTED, "components", "", adapter_off_equal),
    Claim("With the adapter on, generation is no worse than the base's", NOT_REPORTED, "components", "generation",
          expect("components", BASE, FULL, tuple(f"{title}, seen" for title in GENERATION.values()), NO_WORSE)),
    Claim("A learned temperature beats a fixed 0.05", "+1.2 to +1.4 points, for baselines",
          "temperature", "temperature", expect("temperature", "fixed 0.05", "learned from 0.07", RETRIEVAL)),
    Claim("Larger batches retrieve better, at equal pairs seen and so fewer updates", "batch 1,024; not varied",
          "batch-size", "batch-size", expect("batch-size", "batch 16", f"batch {BATCH_SIZES[-1]}", RETRIEVAL)),
    Claim("More groups of twins improve composition, at equal steps", "8.1M pairs; 1M in the ablation",
          "data-size", "data-size", expect("data-size", "40 groups", "all groups", WINOGROUND)),
    Claim("LoRA of rank 16 beats rank 1", "rank 16; not varied", "rank", "rank",
          expect("rank", "rank 1", "rank 16", RETRIEVAL)),
    Claim("A next-token weight of 3 is no better for composition than 1", "weight 1; not varied",
          "next-token-weight", "next-token-weight",
          expect("next-token-weight", "weight 1", "weight 3", SUGARCREPE, ("lower", "n.s."))),
    Claim("Random batches of random pairs improve Winoground", "8.1M pairs; not varied",
          "components-random", "composition-random", expect("components-random", BASE, FULL, WINOGROUND)),
    Claim("A CLIP with five times the learning rate stays below the LVLM on Winoground", NOT_REPORTED,
          "components", "composition", expect("components", CLIP_FASTER, FULL, WINOGROUND)),
    Claim("Ten times as many steps improve the CLIP on Winoground", NOT_REPORTED, "clip-steps", "clip-steps",
          expect("clip-steps", CLIP, f"{10 * Plan.steps} steps", WINOGROUND)),
    Claim("Neighbors mined from more scenes improve composition", "8.1M pairs; 1M in the ablation", "pool", "pool",
          expect("pool", f"{POOLS[0]:,} scenes", f"{POOLS[-1]:,} scenes", WINOGROUND)),
    Claim("Half twins beat no twins in composition", NOT_REPORTED, "twins", "twins",
          expect("twins", "no twins in the data", "0.5 twins", WINOGROUND)),
    Claim("Twins by position alone improve composition over the base", NOT_REPORTED, "swaps", "swaps",
          expect("swaps", BASE, "positions only", WINOGROUND)),
    Claim("Four fifths of LoRA's update keep the composition of all of it", NOT_REPORTED, "interpolation",
          "interpolation", expect("interpolation", "LoRA x 1", "LoRA x 0.8", WINOGROUND, NO_WORSE)),
    *(
        Claim(f"In {name.removesuffix('s')} batches, distilling the likelihood's ranking improves Winoground",
              "not in the paper", f"distillation-{name}", f"distillation-{name}",
              expect(f"distillation-{name}", name, f"{name} + distillation", WINOGROUND))
        for name in DISTILLED
    ),
    Claim("Swapped captions as hard negatives improve composition", "not in the paper", "negatives", "negatives",
          expect("negatives", "random batches", "+ swapped captions", (*WINOGROUND, *SUGARCREPE))),
)  # fmt: skip
