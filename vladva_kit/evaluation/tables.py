"""Tables that compare models: all scores of a run as rows, for the terminal, Markdown and LaTeX, and two sentences.

`results` is the content of results.json: its `models` holds, for each model, the `as_dict()` of its evaluations under
keys such as "retrieval/seen", "winoground/unseen style" and "generation". The last model is the subject of the run.
A score that a model lacks is shown as a dash. Bold means that an interval lies above those of all other models.
All functions raise ValueError for results without models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from typing_extensions import TypeIs

MISSING = "—"
BENCHMARKS = {
    "retrieval": "Retrieval",
    "flickr30k": "Flickr30k",
    "coco": "COCO",
    "nocaps": "nocaps",
    "winoground": "Winoground",
    "sugarcrepe": "SugarCrepe",
    "sugarcrepe_pp": "SugarCrepe++",
    "word_order": "Word order",
    "classification": "Zero-shot classification",
    "vqa": "VQA",
    "captions": "Captions",
}
LABELS = {"text_to_image": "text → image", "image_to_text": "image → text"}
UNLABELED = ("breakdown", "collapsed_tag", "categories", "groups")
HEADLINES = ("text → image R@1", "image → text R@1", "group", "macro", "question accuracy", "caption truth")
IN_TABLES = (
    ("text", "image", "replace", "swap", "add", "micro", "word order same words")
    + ("mean per class", "fully right", "CIDEr", "ROUGE-L")
)  # fmt: skip
LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$"}
)


@dataclass(frozen=True)
class ScoreRow:
    """One score of all models. Level 0 is in the figure and all tables, 1 in all tables, 2 only in the full table."""

    section: str
    name: str
    level: int
    scores: dict[str, Mapping[str, Any] | None]
    skipped: int = 0  # cases of the section that were left out as unusable
    gallery: str = ""  # of retrieval, whose scores depend on it: "500 images and 1,500 captions"

    def percent(self, model: str) -> float:
        """Return the score of a model that has one: `row.percent("base")`."""
        return (self.scores[model] or {})["percent"]

    @property
    def heading(self) -> str:
        """The section with its gallery: "Retrieval, seen, 500 images and 1,500 captions"."""
        return ", ".join(filter(None, (self.section, self.gallery)))

    @property
    def chance_text(self) -> str:
        """The chance level, "25.0", or a dash for a score without one."""
        return " / ".join(dict.fromkeys(f"{value:.1f}" for value in self.values("chance"))) or MISSING

    @property
    def n_text(self) -> str:
        """The number of cases, and of those left out: "397, 3 left out"."""
        left_out = f", {self.skipped} left out" if self.skipped else ""
        return (" / ".join(map(str, self.values("n"))) or MISSING) + left_out

    def values(self, key: str) -> list[Any]:
        """Return the different values of `key` over the models: `row.values("n") == [500]`."""
        return list(dict.fromkeys(s[key] for s in self.scores.values() if s and s.get(key) is not None))

    def texts(self, missing: str, outward: bool = False) -> list[str]:
        """Format each model's score with its interval: `row.texts("—")[0] == "61.2 [58.1, 64.0]"`."""
        return [
            missing if score is None else f"{score['percent']:.1f} {interval_text(score, outward)}".strip()
            for score in self.scores.values()
        ]

    @property
    def clear_winner(self) -> str | None:
        """The model whose interval lies above those of all others, or None."""
        scored = {model: score for model, score in self.scores.items() if score}
        for model, score in scored.items():
            others = [other for name, other in scored.items() if name != model]
            if others and all(compare_intervals(score, other) == "above" for other in others):
                return model
        return None


def score_rows(results: Mapping[str, Any]) -> list[ScoreRow]:
    """Collect all scores of all models, section by section: `score_rows(results)[0].scores["base"]["percent"]`.

    A score is any dict with `percent`, at any depth.
    """
    models: Mapping[str, Mapping[str, Any]] = results.get("models") or {}
    if not models:
        raise ValueError(f"the results hold {', '.join(results) or 'nothing'}; models with their scores are needed")
    found: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for model, sections in models.items():
        for path, score in _find_scores(sections):
            found.setdefault(path, {})[model] = score
    order = list(dict.fromkeys(path[0] for path in found))
    rows = []
    for path in sorted(found, key=lambda path: order.index(path[0])):
        benchmark, _, part = path[0].partition("/")  # "winoground/unseen style" becomes "Winoground, unseen style"
        section = ", ".join(filter(None, (BENCHMARKS.get(benchmark, benchmark.capitalize()), part)))
        scores = {model: found[path].get(model) for model in models}
        parts = [sections.get(path[0]) or {} for sections in models.values()]
        skipped = max(len(part.get("skipped") or ()) for part in parts)
        galleries = dict.fromkeys(gallery_text(part) for part in parts if "n_captions" in part)
        rows.append(ScoreRow(section, _score_name(path[1:]), _level(path), scores, skipped, " / ".join(galleries)))
    return rows


def gallery_text(retrieval: Mapping[str, Any]) -> str:
    """Format a gallery: `gallery_text({"n_images": 500, "n_captions": 1500}) == "500 images and 1,500 captions"`."""
    return f"{retrieval['n_images']:,} images and {retrieval['n_captions']:,} captions"


def _find_scores(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(value, Mapping) and "percent" in value:
        if _is_number(value["percent"]):
            yield path or ("score",), value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _find_scores(inner, (*path, str(key)))


def _is_number(value: Any) -> TypeIs[float]:
    return isinstance(value, Real) and math.isfinite(value)


def _score_name(path: tuple[str, ...]) -> str:
    """Name a score: ("breakdown", "collapsed_tag", "Relation", "group") -> "Relation group"."""
    return " ".join(LABELS.get(part, part.replace("_", " ")) for part in path if part not in UNLABELED) or "score"


def _level(path: tuple[str, ...]) -> int:
    section, *rest = path
    if "breakdown" in rest:
        return 1 if "collapsed_tag" in rest and rest[-1] == "group" else 2
    name = _score_name(tuple(rest))
    if name in HEADLINES:
        return 0
    if name in IN_TABLES or name.startswith(("itt macro", "tot macro", "accuracy", "macro ")):
        return 1
    return 1 if section.partition("/")[0] not in BENCHMARKS and len(rest) <= 1 else 2  # not a part of another score


def compare_intervals(score: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return "above" or "below" if the intervals do not overlap, else "level": `compare_intervals(tuned, base)`."""
    (low, high), (other_low, other_high) = _interval(score), _interval(other)
    return "above" if low > other_high else "below" if high < other_low else "level"


def _interval(score: Mapping[str, Any]) -> tuple[float, float]:
    """Return a score's interval; one without an interval overlaps everything."""
    low, high = score.get("low"), score.get("high")
    return (low, high) if _is_number(low) and _is_number(high) else (-math.inf, math.inf)


def figure_table(results: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any] | None]]:
    """Return the headline scores for `plots.model_comparison`: `model_comparison(figure_table(results))`."""
    return {f"{row.section}\n{row.name}": row.scores for row in score_rows(results) if row.level == 0}


def interval_text(score: Mapping[str, Any], outward: bool = False) -> str:
    """Format a score's interval: "[58.1, 64.0]", rounded `outward` "[58, 64]", or "" if it has none."""
    low, high = _interval(score)
    if not math.isfinite(low):
        return ""
    return f"[{math.floor(round(low, 6))}, {math.ceil(round(high, 6))}]" if outward else f"[{low:.1f}, {high:.1f}]"


def comparison_table(results: Mapping[str, Any]) -> Table:
    """Build the terminal table of models: `rich.print(comparison_table(results))`; three models fit in 80 columns."""
    caption = "percent right [95 % interval, rounded outward]; bold: clear of all others"
    table = terminal_table([*results["models"], "chance", "n"], caption)
    section = None
    for row in score_rows(results):
        if row.level == 2:
            continue
        if row.section != section:
            section = row.section
            table.add_section()
            table.add_row(Text(row.heading, style="bold cyan"))
        styles = ("bold green" if model == row.clear_winner else "" for model in row.scores)
        table.add_row(Text(row.name), *map(Text, row.texts(MISSING, outward=True), styles), row.chance_text, row.n_text)
    return table


def terminal_table(headings: Sequence[str], caption: str) -> Table:
    """Create an empty rich table: a column of names, and one right-aligned column per heading."""
    table = Table("", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=Text(caption))
    for heading in headings:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    return table


def _table_lines(results: Mapping[str, Any], missing: str, bold: str) -> Iterator[list[str]]:
    """Yield each row of a Markdown or LaTeX table: its name, the models' scores, chance and n."""
    for row in score_rows(results):
        if row.level < 2:
            scores = zip(row.scores, row.texts(missing), strict=True)
            cells = [bold % text if model == row.clear_winner else text for model, text in scores]
            numbers = (text.replace(MISSING, missing) for text in (row.chance_text, row.n_text))
            yield [f"{row.heading}: {row.name}", *cells, *numbers]


def markdown_table(results: Mapping[str, Any]) -> str:
    """Build the Markdown table of models."""
    rows = _table_lines(results, MISSING, "**%s**")
    heading = ["", *results["models"], "chance", "n"]
    return markdown_rows(heading, rows, "l" + "r" * (len(heading) - 1))


def markdown_rows(heading: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """Format rows as a Markdown table: `markdown_rows(["model", "R@1"], [["base", "9.0"]], "lr")`.

    `align` has "l" or "r" per column. In cells, | is escaped and a line break becomes a space.
    Raises ValueError for a row of another length.
    """
    table = [heading, *rows]
    for number, row in enumerate(table):
        if len(row) != len(align):
            raise ValueError(f"row {number} has {len(row)} cells, not {len(align)}: {list(row)}")
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table]
    cells.insert(1, ["---:" if side == "r" else "---" for side in align])
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def latex_table(results: Mapping[str, Any]) -> str:
    """Build the LaTeX table of models (booktabs)."""
    rows = list(_table_lines(results, "---", r"\textbf{%s}"))
    models = [model.translate(LATEX) for model in results["models"]]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(models) + 2)}}}",
        r"\toprule",
        " & ".join(["", *models, "chance", "$n$"]) + r" \\",
        r"\midrule",
        *(" & ".join([name.translate(LATEX), *cells]) + r" \\" for name, *cells in rows),
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ]
    return "\n".join(lines)


def summary_sentences(results: Mapping[str, Any]) -> list[str]:
    """Summarize the last model in a sentence on retrieval and one on composition: `summary_sentences(results)`.

    "Clearly" means that the 95 % intervals do not overlap. Scores on the unseen style are preferred; a sentence
    without its score is left out.
    """
    rows, model = score_rows(results), list(results["models"])[-1]
    sentences = []
    if row := _main_row(rows, "retrieval", "text → image R@1", model):
        sentences.append(
            f"Given a caption ({row.heading}), {model} ranks the right image first in "
            f"{row.percent(model):.1f} % of cases, {_comparisons(row, model)}."
        )
    if row := _main_row(rows, "winoground", "group", model):
        sentences.append(
            f"Given two images and two captions of the same words ({row.section}), {model} matches all of them in "
            f"{row.percent(model):.1f} % of cases, {_comparisons(row, model)}"
            f"{_weakest_category(rows, row.section, model)}."
        )
    return sentences


def _main_row(rows: list[ScoreRow], benchmark: str, name: str, model: str) -> ScoreRow | None:
    matching = [r for r in rows if r.section.startswith(BENCHMARKS[benchmark]) and r.name == name and r.scores[model]]
    return next((row for row in matching if "unseen" in row.section), matching[-1] if matching else None)


def _comparisons(row: ScoreRow, model: str) -> str:
    """Compare a model's score with those of the others and with chance, in words."""
    others = {name: score for name, score in row.scores.items() if score and name != model}
    for chance in row.values("chance")[:1]:
        others["chance"] = {"percent": chance, "low": chance, "high": chance}
    phrases = {"above": "clearly more than", "below": "clearly less than", "level": "not clearly different from"}
    parts = []
    for outcome, phrase in phrases.items():
        names = [
            f"{name} ({other['percent']:.1f} %)"
            for name, other in others.items()
            if compare_intervals(row.scores[model] or {}, other) == outcome
        ]
        if names:
            parts.append(f"{phrase} {_join_names(names)}")
    return ", ".join(parts) or "with nothing to compare it to"


def _join_names(names: list[str]) -> str:
    """Join as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _weakest_category(rows: list[ScoreRow], section: str, model: str) -> str:
    """Name the category in which a model scores lowest, and the others' scores there."""
    parts = [r for r in rows if r.section == section and r.level == 1 and r.name.endswith(" group") and r.scores[model]]
    if len(parts) < 2:
        return ""
    row = min(parts, key=lambda row: row.percent(model))
    others = [f"{name} has {s['percent']:.1f} %" for name, s in row.scores.items() if s and name != model]
    there = f" (there {_join_names(others)})" if others else ""
    name, percent = row.name.removesuffix(" group"), row.percent(model)
    return f"; its weakest category is {name} with {percent:.1f} %{there}"
