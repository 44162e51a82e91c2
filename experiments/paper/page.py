"""Generate docs/reproduction.md from the results: claims with verdicts, tables, comparisons and figures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.paper.claims import CLAIMS, NOT_MEASURED, PARTLY, SIDES, SUPPORTED, UNSUPPORTED, Claim
from experiments.paper.defaults import defaults_table
from experiments.paper.figures import TWIN_LOSS, claim_figures
from experiments.paper.plan import BASE, CLIP_TUNED, DISTILLED, FULL, N_EQUALITY_IMAGES
from experiments.paper.statistics import estimate
from experiments.paper.tables import (
    COLUMNS,
    STYLES,
    Results,
    gain_table,
    gallery_of,
    overview,
    records_table,
    results_table,
    swap_table,
    value_of,
    variants_of,
)
from vladva_kit.evaluation.tables import markdown_rows
from vladva_kit.models.files import atomic_write, write_json
from vladva_kit.plots.style import as_png

PAGE, FIGURES, RESULTS = "reproduction.md", "figures", "ablation.json"
COMMAND = "python -m experiments.paper"
_READING = f"""\
## How to read this page

Each value is the mean over the seeds; in the folded tables ± is their standard deviation, and brackets hold the 95 %
bootstrap interval over the cases. Variants are compared on the same cases: a gain is "higher" or "lower" if its paired
interval excludes 0, else "n.s." (not significant). Intervals resample images, since the cases of SugarCrepe's
categories share them, and are not corrected for the number of comparisons: about one in twenty excludes 0 by chance.
The chance level of questions is that of the most common answer of each kind, and 50 % for yes and no; captions have
none. A claim is supported if all of its scores agree with it, and partly supported if at least half do. The rules were
fixed before the runs.

Held-out combinations are Winoground cases whose pairs of nouns, or of color and noun, no training image shows. Hard
positives are two captions that name the same things in opposite order ("a left of b", "b right of a"): both have to
beat a false one. Generation with the adapter off was evaluated for "+ both + next-token" only. All trained variants
were checked for bit-identical outputs with the adapter off on {N_EQUALITY_IMAGES} images.

The base is not strictly zero-shot: emoji-llava was pretrained on the two embedding prompts with a noun as the answer.
This stands in for the instruction following of a large LVLM. The prompt study marks these two prompts and leaves them
out of its correlations; a few other prompts of its list occur in pretraining too, with captions or answers to
questions. emoji-clip was also trained with a patch-labeling loss. Nouns that were misread in the unseen style were
dropped, so scores in that style are optimistic.
"""
_DEFAULTS = """\
Each value that was tried, on emoji-llava; the default in bold; seen / unseen style. A large LVLM needs a lower learning
rate, and the rate of its soft prompt follows.
"""
_QUESTIONS = {  # experiment -> what it asks
    "components": "What does each part add, if batches require word order?",
    "components-random": "And if batches are random, of the random pairs only, so that no twins meet by chance?",
    "clip-steps": "Does a CLIP learn word order from the same batches, with more steps or a higher learning rate?",
    "twins": "How many twins does a batch need? Batches of twins and random pairs, without mined neighbors.",
    "swaps": "Does one kind of twins teach the others?",
    "pool": "Can neighbors mined among random scenes replace twins? Three quarters of each batch are mined.",
    "interpolation": "How much of LoRA's update is needed? It is scaled after training.",
    "next-token-weight": "What does the next-token loss preserve, and what does it cost?",
    "batch-size": "Do larger batches help at equal pairs seen?",
    "data-size": "Do more groups of twins help at equal steps?",
    "rank": "Which rank does LoRA need?",
    "temperature": "Fixed or learned temperature?",
    "negatives": "Can captions with two words swapped, as hard negatives without images, replace twins?",
    **{
        f"distillation-{name}": f"Does it help to distill the base model's likelihoods in {name} batches?"
        for name in DISTILLED
    },
    "soft-prompt-rate": "Which learning rate does the soft prompt need? It is trained alone.",
    "collapse": "What happens if the contrastive loss takes the long captions?",
}


def write_reproduction(results: Results, folder: str | Path, command: str = f"{COMMAND} reproduction") -> Path:
    """Write reproduction.md, its figures as PNG, and the results; return the path of the page.

        write_reproduction(json.loads(Path("runs/ablation/results.json").read_text()), "docs")

    Raises ValueError for results of another command.
    """
    if "experiments" not in results:
        raise ValueError(
            f"the results contain {', '.join(results) or 'nothing'}: pass results.json of `{COMMAND} ablate`"
        )
    folder = Path(folder)
    figures = claim_figures(results)
    atomic_write({folder / FIGURES / f"{name}.png": _small_png(figure) for name, figure in figures.items()})
    write_json(folder / RESULTS, results, indent=None)
    page = folder / PAGE
    atomic_write({page: reproduction_page(results, list(figures), command).encode()})
    return page


def _small_png(figure: Figure) -> bytes:
    """Render at 140 dpi with a palette of 256 colors, which takes less than half the bytes of full color."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(as_png(figure, dpi=140))).convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def reproduction_page(results: Results, figures: Sequence[str], command: str = f"{COMMAND} reproduction") -> str:
    """Return the page as Markdown: the effect, the claims, the experiments, and how to read it."""
    parts = [f"# The paper's study in miniature\n\n{_effect(results, figures)}", _claim_table(results, figures)]
    parts += [_experiment(results, name, figures) for name in results["experiments"]]
    if results.get("blind"):
        parts.append(_blind(results))
    if table := defaults_table(results):
        parts.append(f"## What the defaults rest on\n\n{_DEFAULTS}\n{table}")
    if "components" in results["experiments"]:
        parts += [_effects(results), _representations(results)]
    return "\n".join([*parts, _READING, _source(results, command)])


def _effect(results: Results, figures: Sequence[str]) -> str:
    """State what the study shows: composition by kind of batches, and the number of claims by verdict."""
    lines = []
    for experiment, batches in (("components", "that require word order"), ("components-random", "of random pairs")):
        if experiment in results["experiments"]:
            base, full, clip = (_group(results, experiment, name) for name in (BASE, FULL, CLIP_TUNED))
            lines.append(
                f"- **Batches {batches}:** fine-tuning takes the LVLM's group score on Winoground from {base} to "
                f"{full} % (seen / unseen style); a CLIP trained on the same batches is at {clip} %."
            )
    verdicts = Counter(claim.test(results).verdict for claim in CLAIMS)
    counted = ", ".join(f"{verdicts[one]} {one}" for one in (SUPPORTED, PARTLY, UNSUPPORTED))
    lines.append(f"- **Claims:** {counted}; the next table has one row each.")
    picture = [f"\n![Loss on test twins during training]({FIGURES}/{TWIN_LOSS}.png)"] if TWIN_LOSS in figures else []
    return "\n".join([*lines, *picture]) + "\n"


def _group(results: Results, experiment: str, variant: str) -> str:
    values = (value_of(results, experiment, variant, f"Winoground group, {style}") for style in STYLES)
    return " / ".join(f"{value.percent:.1f}" for value in values if value)


def _claim_table(results: Results, figures: Sequence[str]) -> str:
    """Tabulate the measured claims, name the experiments that were not run, and fold every score away."""
    measured = [(claim, finding) for claim in CLAIMS if (finding := claim.test(results)).verdict != NOT_MEASURED]
    missing = dict.fromkeys(claim.experiment for claim in CLAIMS if claim not in [one for one, _ in measured])
    rows = [
        [_linked(claim, figures), claim.paper, finding.short or finding.evidence, f"**{finding.verdict}**"]
        for claim, finding in measured
    ]
    details = "\n".join(
        f"- **{claim.text}** (`{COMMAND} ablate --experiment {claim.experiment}`): {finding.evidence}"
        for claim, finding in measured
    )
    note = f"Not run yet: {', '.join(missing)} (`{COMMAND} ablate --experiment NAME`).\n\n" if missing else ""
    return (
        f"## Claims\n\n{markdown_rows(['claim', 'paper', 'this study', 'verdict'], rows, 'llll')}\n{note}"
        f"<details><summary>Every score behind each verdict, and its command</summary>\n\n{details}\n\n</details>\n"
    )


def _linked(claim: Claim, figures: Sequence[str]) -> str:
    return f"[{claim.text}]({FIGURES}/{claim.figure}.png)" if claim.figure in figures else claim.text


def _experiment(results: Results, name: str, figures: Sequence[str]) -> str:
    """Show an experiment: its question, the main scores, and folded away its figure, all scores and comparisons."""
    experiment = results["experiments"][name]
    runs = {run for variant in experiment["variants"] for run in variant["runs"]}
    minutes = sum(sum(results["runs"][run]["seconds"].values()) for run in runs) / 60
    seeds = max(len(variant["runs"]) for variant in experiment["variants"])
    parts = [
        f"## {name.replace('-', ' ').capitalize()}\n\n{_QUESTIONS[name]}\n",
        f"{overview(results, name)}\nPercent; seen / unseen style. `{COMMAND} ablate --experiment {name}`: {len(runs)} "
        f"runs, {minutes:.0f} minutes, {seeds} {'seed' if seeds == 1 else 'seeds'} per trained variant.\n",
        f"By what a case swaps:\n\n{swap_table(results)}" if name == "swaps" else "",
        _context(results) if name == "next-token-weight" and results.get("context") else "",
        f"![Scores of each variant of {name}, with intervals]({FIGURES}/{name}.png)\n" if name in figures else "",
        f"<details><summary>All scores with intervals</summary>\n\n{results_table(results, name)}\n</details>\n",
        f"<details><summary>Comparisons, case by case</summary>\n\n{gain_table(results, name)}\n</details>\n",
    ]
    return "\n".join(part for part in parts if part)


def _context(results: Results) -> str:
    """Tabulate the variant of the next-token loss in which a caption sees the summary token only."""
    return (
        "If the long caption attends to the summary token only, not to the image (one seed):\n\n"
        f"{records_table({name: [record] for name, record in results['context'].items()})}\n"
        f"`{COMMAND} ablate --experiment context`\n"
    )


def _blind(results: Results) -> str:
    """Tabulate the baselines that do not see the image."""
    columns = [f"SugarCrepe {kind}, {style}" for kind in ("replace", "swap", "add") for style in STYLES]
    rows = []
    for name, record in results["blind"].items():
        found = [estimate([record], COLUMNS[column]) for column in (*columns, "Winoground group, seen")]
        rows.append([name, *(f"{value.percent:.1f}" for value in found)])
    heading = ["", *columns, "Winoground group"]
    return (
        "## Blind baselines\n\nWhat captions alone give away: 50 % is chance in SugarCrepe. In Winoground both "
        "captions get the same score with either image, so the group score is 0.\n\n"
        f"{markdown_rows(heading, rows, 'l' + 'r' * (len(heading) - 1))}\n`{COMMAND} ablate --experiment blind`\n"
    )


def _source(results: Results, command: str) -> str:
    plan, versions = results["plan"], results["versions"]
    return (
        f"Generated by `{command}` from [{RESULTS}]({RESULTS}), the results of `{results['command']}`. "
        f"Unless an experiment varies it, a run trains emoji-llava for {plan['steps']} steps of {plan['batch_size']} "
        "pairs. The paper's values are those of LLaVA-1.5-7B on photos (arXiv 2412.04378), so only the direction of an "
        f"effect can be compared. Retrieval ranks {gallery_of(results)} per style. "
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.\n"
    )


def _effects(results: Results) -> str:
    """Tabulate Winoground's main effects and interaction per variant, which show why a model fails."""
    lines = []
    for experiment in ("components", "components-random"):
        for name, records in variants_of(results, experiment).items() if experiment in results["experiments"] else ():
            known = [record["effects"] for record in records if "effects" in record]
            if known:
                means = [
                    f"{np.mean([one[style][effect] for one in known]):.4f}"
                    for style in STYLES
                    for effect in ("image", "caption", "interaction")
                ]
                lines.append([f"{name} ({'random' if experiment.endswith('random') else 'hard'} batches)", *means])
    heading = ["", *(f"{effect}, {style}" for style in STYLES for effect in ("image", "caption", "interaction"))]
    return (
        "## Winoground's effects\n\n"
        "A case is right if its interaction, by which the true pairs score higher than the false ones, exceeds both "
        "main effects, by which one image or one caption scores higher throughout. Means over cases and seeds, in "
        "units of cosine similarity; main effects as absolute values.\n\n"
        f"{markdown_rows(heading, lines, 'l' + 'r' * 6)}"
    )


def _representations(results: Results) -> str:
    """Tabulate the probes of each variant: means over the seeds, and the likeliest words of the first seed."""
    heading = ["", "entropy (nats)", "effective rank", "modality gap", "attention density (%)", "likeliest words"]
    lines, n = [], 0
    for name, records in variants_of(results, "components").items():
        probes = [probe for record in records if (probe := record.get("representations"))]
        if probes:
            n = probes[0]["n"]
            lines.append([name, *_probe_values(probes), _top_words(probes[0])])
    return (
        "## Representations\n\n"
        f"Summary tokens of {n} images and {n} captions: images / captions, means over the seeds. Likeliest words: "
        "those most often among the ten likeliest next words of an image, with the number of images (seed 0).\n\n"
        + markdown_rows(heading, lines, "lrrrrl")
    )


def _probe_values(probes: Sequence[Mapping[str, Any]]) -> list[str]:
    def mean(values: Sequence[Any]) -> float:
        return float(np.mean([np.mean(one) for one in values]))

    per_side = [
        " / ".join(f"{mean([probe[key][side] for probe in probes]):.{digits}f}" for side in SIDES)
        for key, digits in (("entropy", 2), ("effective_rank", 1))
    ]
    gap, density = (mean([probe[key] for probe in probes]) for key in ("modality_gap", "attention_density"))
    return [*per_side, f"{gap:.2f}", f"{100 * density:.1f}"]


def _top_words(probe: Mapping[str, Any], n: int = 4) -> str:
    words = sorted(probe["top_words"]["image"].items(), key=lambda item: -item[1])[:n]
    return ", ".join(f"{word} {count}" for word, count in words)
