"""Models side by side: all scores of a run as rows, as a table for the terminal or a README, and in two sentences.

`results` is the plain dict of results.json: `command`, `seed`, `versions`, `seconds`, and `models`, which holds for
each model what the evaluations' `as_dict` gave, under "retrieval/seen", "winoground/unseen style", "generation", …
The last model is the one that the run is about. A score that a model lacks is shown as a dash.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from vladva_kit.evaluation import markdown

if TYPE_CHECKING:
    import rich.table

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
WORDS = {"text_to_image": "text → image", "image_to_text": "image → text"}
UNSAID = ("breakdown", "collapsed_tag", "categories", "groups")
HEADLINES = ("text → image R@1", "image → text R@1", "group", "macro", "question accuracy", "caption truth")
TABLED = (
    "text",
    "image",
    "replace",
    "swap",
    "add",
    "micro",
    "word order same words",
    "mean per class",
    "fully right",
    "CIDEr",
    "ROUGE-L",
)


@dataclass(frozen=True)
class Row:
    """One score over all models; `level` 0 is in figure and tables, 1 in the tables, 2 in the page's full table."""

    section: str
    name: str
    level: int
    scores: dict[str, Mapping[str, Any] | None]
    skipped: int = 0  # cases of the section that could not be used, where leaving them out was asked for

    @property
    def chance_text(self) -> str:
        """What guessing gives: "25.0"."""
        return _joined(self.of_any("chance"), ".1f")

    @property
    def n_text(self) -> str:
        """Number of cases, and how many were left out: "397, 3 left out"."""
        return _joined(self.of_any("n"), "d") + (f", {self.skipped} left out" if self.skipped else "")

    def of_any(self, key: str) -> list[Any]:
        """The different values of `key` over the models: `row.of_any("n") == [500]`."""
        return list(dict.fromkeys(s[key] for s in self.scores.values() if s and s.get(key) is not None))

    @property
    def clear_winner(self) -> str | None:
        """The model whose whole interval lies above those of all others; None if there is none, or no other."""
        scored = {model: score for model, score in self.scores.items() if score}
        for model, score in scored.items():
            others = [other for name, other in scored.items() if name != model]
            if others and all(compared(score, other) == "above" for other in others):
                return model
        return None


def score_rows(results: Mapping[str, Any]) -> list[Row]:
    """All scores of all models, section by section: `score_rows(results)[0].scores["base"]["percent"]`.

    A score is any dict with `percent`, however deep. Raises ValueError for results without models.
    """
    models: Mapping[str, Mapping[str, Any]] = results.get("models") or {}
    if not models:
        raise ValueError(f"the results hold {', '.join(results) or 'nothing'}; needed are models with their scores")
    found: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for model, sections in models.items():
        for path, score in _scores(sections):
            found.setdefault(path, {})[model] = score
    order = list(dict.fromkeys(path[0] for path in found))
    return [
        Row(
            _section(path[0]),
            _name(path[1:]),
            _level(path),
            {model: found[path].get(model) for model in models},
            max(len((sections.get(path[0]) or {}).get("skipped") or ()) for sections in models.values()),
        )
        for path in sorted(found, key=lambda path: order.index(path[0]))
    ]


def _scores(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(value, Mapping) and "percent" in value:
        if _is_number(value["percent"]):
            yield path or ("score",), value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _scores(inner, (*path, str(key)))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _section(key: str) -> str:
    """What a section is called: "winoground/unseen style" -> "Winoground, unseen style"."""
    kind, _, where = key.partition("/")
    return ", ".join(filter(None, (BENCHMARKS.get(kind, kind.capitalize()), where)))


def _name(path: tuple[str, ...]) -> str:
    """What a score is called: ("breakdown", "collapsed_tag", "Relation", "group") -> "Relation group"."""
    return " ".join(WORDS.get(part, part.replace("_", " ")) for part in path if part not in UNSAID) or "score"


def _level(path: tuple[str, ...]) -> int:
    section, *rest = path
    if "breakdown" in rest:
        return 1 if "collapsed_tag" in rest and rest[-1] == "group" else 2
    if (name := _name(tuple(rest))) in HEADLINES:
        return 0
    if name.startswith(("itt macro", "tot macro", "accuracy", "macro ")):
        return 1
    own = section.partition("/")[0] not in BENCHMARKS and len(rest) <= 1  # a score of its own, no part of another
    return 1 if own or name in TABLED else 2


def compared(score: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """ "above" or "below" where the two intervals lie apart, else "level": `compared(tuned, base) == "above"`."""
    (low, high), (other_low, other_high) = _interval(score), _interval(other)
    return "above" if low > other_high else "below" if high < other_low else "level"


def _interval(score: Mapping[str, Any]) -> tuple[float, float]:
    """A score without an interval is apart from nothing."""
    low, high = score.get("low"), score.get("high")
    return (low, high) if _is_number(low) and _is_number(high) else (-math.inf, math.inf)


def figure_table(results: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any] | None]]:
    """The headline scores as `plots.model_comparison` takes them: `model_comparison(figure_table(results))`."""
    return {f"{row.section}\n{row.name}": row.scores for row in score_rows(results) if row.level == 0}


def interval_text(score: Mapping[str, Any]) -> str:
    """A score's interval as text: "[58.1, 64.0]"; "" where it has none."""
    low, high = _interval(score)
    return f"[{low:.1f}, {high:.1f}]" if math.isfinite(low) else ""


def comparison_table(results: Mapping[str, Any]) -> rich.table.Table:
    """The models side by side for the terminal: `rich.print(comparison_table(results))`; 80 columns hold three.

    Raises ValueError for results without models.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in score_rows(results) if row.level < 2]
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=Text("percent right [95 % interval, rounded outward]; bold: clear of all others"),
    )
    table.add_column("")
    for model in results["models"]:
        table.add_column(Text(model), justify="right", no_wrap=True)
    table.add_column("chance", justify="right")
    table.add_column("n", justify="right")
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            table.add_section()
            table.add_row(Text(section, style="bold cyan"))
        cells = [
            Text(_short(score), style="bold green" if model == row.clear_winner else "")
            for model, score in row.scores.items()
        ]
        table.add_row(Text(row.name), *cells, row.chance_text, row.n_text)
    return table


def _short(score: Mapping[str, Any] | None) -> str:
    """ "61.2 [58, 65]": whole numbers that hold the interval."""
    if score is None:
        return MISSING
    low, high = _interval(score)
    if not math.isfinite(low):
        return f"{score['percent']:.1f}"
    return f"{score['percent']:.1f} [{math.floor(round(low, 6))}, {math.ceil(round(high, 6))}]"


def _joined(values: list[Any], form: str) -> str:
    return " / ".join(dict.fromkeys(f"{value:{form}}" for value in values)) or MISSING


def markdown_table(results: Mapping[str, Any]) -> str:
    """The models side by side for a README, in Markdown; bold: the interval lies above those of all others.

    Raises ValueError for results without models.
    """
    rows = [row for row in score_rows(results) if row.level < 2]
    lines = []
    for row in rows:
        line = [f"{row.section}: {row.name}"]
        for model, score in row.scores.items():
            text = MISSING if score is None else f"{score['percent']:.1f} {interval_text(score)}".strip()
            line.append(f"**{text}**" if model == row.clear_winner else text)
        lines.append([*line, row.chance_text, row.n_text])
    heading = ["", *results["models"], "guessing", "n"]
    return markdown.table(heading, lines, "l" + "r" * (len(heading) - 1))


def meaning(results: Mapping[str, Any]) -> list[str]:
    """What the numbers say of the last model, in a sentence on retrieval and one on compositions: `meaning(results)`.

    "Clearly" is said where the 95 % intervals do not overlap. The unseen style is taken where there is one; a sentence
    without its score is left out. Raises ValueError for results without models.
    """
    rows = score_rows(results)
    new = list(results["models"])[-1]
    sentences = []
    if row := _deciding(rows, "retrieval", "text → image R@1", new):
        sentences.append(
            f"Given a caption ({row.section}), {new} ranks the right picture first in "
            f"{row.scores[new]['percent']:.1f} % of cases, {_against(row, new)}."
        )
    if row := _deciding(rows, "winoground", "group", new):
        sentences.append(
            f"Given two pictures and two captions of the same words ({row.section}), {new} matches all of them in "
            f"{row.scores[new]['percent']:.1f} % of cases, {_against(row, new)}{_weakest(rows, row.section, new)}."
        )
    return sentences


def _deciding(rows: list[Row], kind: str, name: str, model: str) -> Row | None:
    fitting = [r for r in rows if r.section.startswith(BENCHMARKS[kind]) and r.name == name and r.scores[model]]
    return next((row for row in fitting if "unseen" in row.section), fitting[-1] if fitting else None)


def _against(row: Row, new: str) -> str:
    """How a model's score stands to those of the others and to guessing."""
    others = {model: score for model, score in row.scores.items() if score and model != new}
    for chance in row.of_any("chance")[:1]:
        others["guessing"] = {"percent": chance, "low": chance, "high": chance}
    words = {"above": "clearly more than", "below": "clearly less than", "level": "not clearly different from"}
    parts = []
    for outcome, said in words.items():
        names = [
            f"{model} ({other['percent']:.1f} %)"
            for model, other in others.items()
            if compared(row.scores[new], other) == outcome
        ]
        if names:
            parts.append(f"{said} {_listed(names)}")
    return ", ".join(parts) or "with nothing to compare it to"


def _listed(names: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _weakest(rows: list[Row], section: str, new: str) -> str:
    """The kind of case that a model has least of, and how the others do there."""
    kinds = [r for r in rows if r.section == section and r.level == 1 and r.name.endswith(" group") and r.scores[new]]
    if len(kinds) < 2:
        return ""
    row = min(kinds, key=lambda row: row.scores[new]["percent"])
    others = [f"{model} has {s['percent']:.1f} %" for model, s in row.scores.items() if s and model != new]
    where = f" (there {_listed(others)})" if others else ""
    return f"; its weakest kind is {row.name.removesuffix(' group')} with {row.scores[new]['percent']:.1f} %{where}"
