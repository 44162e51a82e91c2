"""Write the generated tables of the README and of the pages in docs/ from the results that they show.

    python docs/update_readme.py                          # all tables whose sources are committed
    python docs/update_readme.py runs/demo/results.json   # the demo's table first

A table is between two markers: `<!-- NAME table -->` and `<!-- end of NAME table -->`.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `experiments` is not installed

from experiments.benchmarks.measure import find_targets  # noqa: E402
from experiments.paper.tables import gallery_of, overview  # noqa: E402
from vladva_kit.evaluation.tables import markdown_rows, markdown_table  # noqa: E402
from vladva_kit.models.files import atomic_write, write_json  # noqa: E402
from vladva_kit.training.memory import memory_table  # noqa: E402

PAGES = {  # table -> its page
    "demo": "docs/results.md",
    "study": "docs/results.md",
    "summary": "README.md",
    "memory": "docs/models.md",
    "benchmarks": "docs/performance.md",
}
DEMO = Path("docs") / "demo.json"  # the demo's results behind its table
SUMMARY_COLUMNS = ("base", "fine-tuned", "emoji-clip", "chance")
GALLERY = "500 images and 1,500 captions"  # of the sample that the demo evaluates
SUMMARY_ROWS = {  # row of the demo's table -> label in the README
    f"Retrieval, unseen style, {GALLERY}: text → image R@1": f"text → image R@1, {GALLERY}",
    f"Retrieval, unseen style, {GALLERY}: image → text R@1": f"image → text R@1, {GALLERY}",
    "SugarCrepe, unseen style: add": "SugarCrepe add",
    "SugarCrepe, unseen style: replace": "SugarCrepe replace",
    "SugarCrepe, unseen style: swap": "SugarCrepe swap",
    "Winoground, unseen style: group": "Winoground group",
    "Generation, unseen style: question accuracy": "question accuracy",
    "Generation, unseen style: caption truth": "caption truth",
}
STYLES = {"seen": "Seen styles:", "unseen style": "Unseen style:"}


def main(demo_results: Path | None = None, root: Path = ROOT) -> None:
    """Update all tables below `root`; the demo's only if its results are given, which are then kept in docs/demo.json.

    main(Path("runs/demo/results.json"))

    Raises ValueError if a page lacks the markers.
    """
    if demo_results is not None:
        record = demo_record(json.loads(demo_results.read_text()))
        write_json(root / DEMO, record, indent=None)
        write_table("demo", markdown_table(record), root)
    write_table("study", study_tables(), root)
    write_table("summary", summary_table(read_table("demo", root)), root)
    write_table("benchmarks", targets_table(), root)
    heading, rows = memory_table()
    write_table("memory", markdown_rows(heading, rows, "l" + "r" * (len(heading) - 1)), root)


def demo_record(results: dict) -> dict:
    """Keep what backs the demo's table, without single cases: `demo_record(json.loads(path.read_text()))["models"]`."""
    kept = {key: results[key] for key in ("command", "seed", "versions", "identity", "data") if key in results}
    per_case = ("cases", "image_ranks", "caption_ranks", "image_margins", "caption_margins")
    models = {
        model: {name: {k: v for k, v in one.items() if k not in per_case} for name, one in sections.items()}
        for model, sections in results["models"].items()
    }
    return kept | {"models": models}


def read_table(name: str, root: Path = ROOT) -> str:
    """Return the text between a table's markers: `read_table("demo")`."""
    return _split_page(name, root)[1]


def write_table(name: str, table: str, root: Path = ROOT) -> None:
    """Replace the text between a table's markers: `write_table("benchmarks", targets_table())`."""
    before, _, after = _split_page(name, root)
    atomic_write({root / PAGES[name]: f"{before}\n{table}\n{after}".encode()})


def _split_page(name: str, root: Path) -> tuple[str, str, str]:
    """Split a table's page into the text up to the first marker, the table, and the text from the second marker."""
    begin, end = f"<!-- {name} table -->\n", f"<!-- end of {name} table -->\n"
    before, opened, rest = (root / PAGES[name]).read_text().partition(begin)
    table, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{PAGES[name]} lacks the markers '{begin.strip()}' and '{end.strip()}': add both")
    return before + begin, table.strip("\n") + "\n", end + after


def summary_table(demo_table: str) -> str:
    """Select the README's rows and columns from the demo's table, without intervals.

    summary_table(read_table("demo"))

    Raises KeyError for a row or column that the demo's table lacks.
    """
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in demo_table.strip().splitlines()]
    heading, _, *body = lines
    columns = [heading.index(name) for name in SUMMARY_COLUMNS]
    cells = {row[0]: [re.sub(r"\*\*| \[.*?\]", "", row[column]) for column in columns] for row in body}
    rows = [[label, *cells[name]] for name, label in SUMMARY_ROWS.items()]
    return markdown_rows(["unseen style, percent", *SUMMARY_COLUMNS], rows, "l" + "r" * len(SUMMARY_COLUMNS))


def study_tables(path: Path = ROOT / "docs" / "ablation.json") -> str:
    """Return the study's component tables, one per style: `study_tables(Path("docs/ablation.json"))`."""
    results = json.loads(path.read_text())
    parts = [f"{title}\n\n{overview(results, 'components', style)}" for style, title in STYLES.items()]
    n_seeds = len(results["plan"]["seeds"])
    parts.append(f"R@1 is among {gallery_of(results)}; a dash: not measured, or no chance level.\n")
    parts.append(f"Percent, mean ± standard deviation over {n_seeds} seeds. `{results['command']}`\n")
    return "\n".join(parts)


def targets_table(folder: Path = ROOT / "experiments" / "benchmarks" / "results") -> str:
    """Return a table of all targets on the benchmarks' pages, with the measured values."""
    rows = [
        [f"[{page.stem}](../experiments/benchmarks/results/{page.name})", name, bound, measured, result]
        for page in sorted(folder.glob("*.md"))
        for name, measured, bound, result in find_targets(page.read_text())
    ]
    return markdown_rows(["benchmark", "measurement", "target", "measured", "result"], rows, "lllrl")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
