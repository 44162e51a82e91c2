"""Markdown tables of the results: an experiment's variants over the scores, and the comparisons between variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import vladva_kit as vk
from experiments.paper.measures import correct_cases
from experiments.paper.statistics import Gain, estimate, gain
from vladva_kit.evaluation.bootstrap import Score
from vladva_kit.evaluation.sugarcrepe import CATEGORIES
from vladva_kit.evaluation.tables import MISSING, gallery_text, markdown_rows
from vladva_kit.evaluation.winoground import load_winoground

Results = Mapping[str, Any]  # results.json
STYLES = ("seen", "unseen style")
WAYS = ("image_to_text", "text_to_image")
GENERATION = {"questions": "question accuracy", "caption_truth": "caption truth", "second_turn": "second turn"}
ADAPTER_OFF = " (adapter off)"


def _columns(style: str) -> dict[str, tuple[str, ...]]:
    return {
        f"image → text R@1, {style}": (f"retrieval/{style}/image_to_text",),
        f"text → image R@1, {style}": (f"retrieval/{style}/text_to_image",),
        **{
            f"SugarCrepe {kind}, {style}": tuple(
                f"sugarcrepe/{style}/{category}" for category in CATEGORIES if category.startswith(kind)
            )
            for kind in ("replace", "swap", "add")
        },
        **{f"Winoground {part}, {style}": (f"winoground/{style}/{part}",) for part in ("text", "image", "group")},
        **{
            f"{title}{suffix}, {style}": (f"{benchmark}/{style}/{measure}",)
            for measure, title in GENERATION.items()
            for suffix, benchmark in (("", "generation"), (ADAPTER_OFF, "generation_adapter_off"))
        },
    }


COLUMNS = {title: measures for style in STYLES for title, measures in _columns(style).items()}  # averaged measures
COLUMNS |= {
    "Winoground group, held-out combinations": ("winoground/held-out/group",),
    "hard positives, seen": ("hard positives/seen/itt",),
}
RETRIEVAL = tuple(f"{way} R@1, {style}" for style in STYLES for way in ("text → image", "image → text"))
SUGARCREPE = tuple(column for column in COLUMNS if column.startswith("SugarCrepe"))
WINOGROUND = tuple(column for column in COLUMNS if column.startswith("Winoground"))
MAIN = {  # title -> its scores, seen and unseen style
    title: tuple(f"{column}, {style}" for style in STYLES)
    for title, column in {
        "Winoground group": "Winoground group",
        "text → image R@1": "text → image R@1",
        "image → text R@1": "image → text R@1",
        "SugarCrepe swap": "SugarCrepe swap",
        "questions right": GENERATION["questions"],
        "captions true": GENERATION["caption_truth"],
    }.items()
} | {
    "held-out combinations": ("Winoground group, held-out combinations",),
    "hard positives": ("hard positives, seen",),
}
SWAPPED = {"relation": "positions", "object": "noun", "color": "color", "size": "size"}  # Winoground's tag -> swap


def variants_of(results: Results, experiment: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the records of each variant, one per seed: `variants_of(results, "components")["base"][0]["measures"]`.

    Raises KeyError for an experiment that is not in the results.
    """
    variants = results["experiments"][experiment]["variants"]
    return {variant["name"]: [results["runs"][run] for run in variant["runs"]] for variant in variants}


def runs_of(results: Results, experiment: str, variant: str) -> list[Mapping[str, Any]]:
    """Return the records of one variant: `runs_of(results, "components", "base")[0]["measures"]`.

    Raises KeyError for an experiment or a variant that is not in the results.
    """
    return variants_of(results, experiment)[variant]


def value_of(results: Results, experiment: str, variant: str, column: str) -> Score | None:
    """Return one value: `value_of(results, "components", "base", "Winoground group, seen").percent`.

    None if it was not measured.
    """
    return estimate(runs_of(results, experiment, variant), COLUMNS[column])


def gain_of(results: Results, experiment: str, first: str, second: str, column: str) -> Gain | None:
    """Return the gain of variant `second` over variant `first` in a column; None if one was not measured."""
    variants = variants_of(results, experiment)
    return gain(variants[first], variants[second], COLUMNS[column])


def values_of(results: Results, experiment: str) -> dict[str, dict[str, Score | None]]:
    """Return the values of all variants by column, without the columns in which none was measured.

    values_of(results, "components")["Winoground group, seen"]["base"].percent
    """
    variants = variants_of(results, experiment)
    values = {
        column: {name: estimate(records, measures) for name, records in variants.items()}
        for column, measures in COLUMNS.items()
    }
    return {column: row for column, row in values.items() if any(row.values())}


def gallery_of(results: Results) -> str:
    """Return the size of the retrieval gallery of a style, "500 images and 1,500 captions", or "" without runs."""
    for record in results["runs"].values():
        sizes = [len(record["measures"][f"retrieval/{STYLES[0]}/{way}"]["correct"]) for way in WAYS]
        return gallery_text(dict(zip(("n_images", "n_captions"), sizes, strict=True)))
    return ""


def results_table(results: Results, experiment: str) -> str:
    """Return an experiment as a Markdown table with one row per score and one column per variant.

    print(results_table(results, "components"))
    """
    lines = []
    for column, values in values_of(results, experiment).items():
        known = next(value for value in values.values() if value)
        cells = [MISSING if value is None else str(value) for value in values.values()]
        lines.append([column, *cells, _chance_text(known), f"{known.n:,}"])
    variants = list(variants_of(results, experiment))
    return markdown_rows(["", *variants, "chance", "n"], lines, "l" + "r" * (len(variants) + 2))


def overview(results: Results, experiment: str) -> str:
    """Return the main scores as a Markdown table with one row per variant, "seen / unseen style", without intervals.

    print(overview(results, "components"))
    """
    return records_table(variants_of(results, experiment))


def records_table(variants: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the main scores of records by variant as a Markdown table: `records_table({"base": [record]})`."""
    columns = {title: [(column, COLUMNS[column]) for column in names] for title, names in MAIN.items()}
    table = {
        name: {title: [estimate(records, measures) for _, measures in parts] for title, parts in columns.items()}
        for name, records in variants.items()
    }
    shown = [title for title in columns if any(value for row in table.values() for value in row[title])]
    lines = [[name, *(_cell(row[title]) for title in shown)] for name, row in table.items()]
    return markdown_rows(["", *shown], lines, "l" + "r" * len(shown))


def _cell(values: Sequence[Score | None]) -> str:
    return MISSING if values[0] is None else " / ".join(f"{one.percent:.1f}" for one in values if one)


def _chance_text(score: Score) -> str:
    return MISSING if score.chance is None else f"{score.chance:.1f}"


def gain_table(results: Results, experiment: str) -> str:
    """Return the comparisons of an experiment as a Markdown table: gain in points, paired interval, McNemar's p."""
    variants, lines = variants_of(results, experiment), []
    for first, second in results["experiments"][experiment]["comparisons"]:
        for column, measures in COLUMNS.items():
            difference = gain(variants[first], variants[second], measures)
            if difference is not None:
                p_values = ", ".join(f"{value:.2g}" for value in difference.p_values)
                lines.append([f"{first} → {second}", column, str(difference), difference.outcome, p_values])
    return markdown_rows(["comparison", "score", "gain [95 %]", "", "McNemar's p, per seed"], lines, "llrll")


def swap_table(results: Results) -> str:
    """Return Winoground's group score by what a case swaps, one row per variant of "swaps", seen / unseen style.

    print(swap_table(results))
    """
    folder = vk.sample("winoground_mini")
    tags = {
        style: np.array([SWAPPED[case.tags["tag"]] for case in load_winoground(path)])
        for style, path in zip(STYLES, (folder, folder / "unseen_style"), strict=True)
    }
    lines = []
    for name, records in variants_of(results, "swaps").items():
        correct = {
            style: np.mean([correct_cases(one["measures"][f"winoground/{style}/group"]) for one in records], axis=0)
            for style in STYLES
        }
        lines.append(
            [
                name,
                *(
                    " / ".join(f"{100 * correct[style][tags[style] == swap].mean():.1f}" for style in STYLES)
                    for swap in SWAPPED.values()
                ),
            ]
        )
    return markdown_rows(["trained on", *(f"tested on {swap}" for swap in SWAPPED.values())], lines, "lrrrr")
