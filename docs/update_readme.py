"""Write the generated tables of the README and of the pages in docs/ from the results that they show.

    python docs/update_readme.py                          # all tables whose sources are committed, and the recording
    python docs/update_readme.py runs/demo/results.json   # the demo's table first

A table is between two markers: `<!-- NAME table -->` and `<!-- end of NAME table -->`. The recording is the file that
notebook 03 shows, the loss curves of the study's experiment "collapse".
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `experiments` is not installed

from experiments.benchmarks.measure import find_targets, read_values  # noqa: E402
from experiments.paper.tables import gallery_of, value_of, variants_of  # noqa: E402
from experiments.paper.tables import overview as study_overview  # noqa: E402
from vladva_kit.evaluation.overview import COLUMNS, overview  # noqa: E402
from vladva_kit.evaluation.tables import gallery_text, markdown_rows, markdown_table  # noqa: E402
from vladva_kit.models.files import atomic_write, write_json  # noqa: E402
from vladva_kit.plots.recorded import COLLAPSE  # noqa: E402
from vladva_kit.training.memory import memory_table  # noqa: E402

PAGES = {  # table -> its page
    "demo": "docs/results.md",
    "study": "docs/results.md",
    "summary": "README.md",
    "memory": "docs/models.md",
    "benchmarks": "docs/performance.md",
}
DEMO = "docs/demo.json"  # the demo's results without its cases
PER_CASE = ("cases", "image_ranks", "caption_ranks", "image_margins", "caption_margins")
STYLES = ("unseen style", "seen")
BATCHES = {"components": "Hard batches", "components-random": "Random batches"}  # experiment -> its batches


def main(demo_results: Path | None = None, root: Path = ROOT) -> None:
    """Update all tables below `root`; with the demo's results, first replace the committed ones.

    main(Path("runs/demo/results.json"))

    Raises ValueError if a page lacks the markers.
    """
    if demo_results is not None:
        write_json(root / DEMO, without_cases(json.loads(demo_results.read_text())), indent=None)
    demo = json.loads((root / DEMO).read_text())
    write_table("demo", demo_table(demo), root)
    write_table("study", study_tables(), root)
    write_table("summary", summary_table(demo), root)
    write_table("benchmarks", targets_table(), root)
    heading, rows = memory_table()
    write_table("memory", markdown_rows(heading, rows, "l" + "r" * (len(heading) - 1)), root)
    write_json(root / "vladva_kit" / "plots" / COLLAPSE, collapse_record(), indent=None)


def without_cases(results: dict) -> dict:
    """Remove values per case and the training history from results, which keeps the committed file small."""
    models = {
        model: {name: {k: v for k, v in one.items() if k not in PER_CASE} for name, one in by_benchmark.items()}
        for model, by_benchmark in results["models"].items()
    }
    return {key: value for key, value in results.items() if key != "history"} | {"models": models}


def demo_table(demo: dict) -> str:
    """Return all scores of the demo, and the command that computes them: `demo_table(json.loads(…))`."""
    return f"{markdown_table(demo)}\n`{demo['command']}`, {sum(demo['seconds'].values()):.0f} seconds.\n"


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


def summary_table(demo: dict) -> str:
    """Return the effect of the fine-tune and the gallery's size in sentences, and headline scores by model.

    print(summary_table(json.loads(Path("docs/demo.json").read_text())))
    """
    models, retrieval = overview(demo, "unseen style"), demo["models"]["base"]["retrieval/unseen style"]
    sentences = "\n".join(f"- {sentence}" for sentence in reversed(demo["effect"]))
    rows = [[model, *cells.values()] for model, cells in models.items()]
    table = markdown_rows(["unseen style, percent", *COLUMNS], rows, "l" + "r" * len(COLUMNS))
    return f"{sentences}\n\n{table}\nR@1 is among {gallery_text(retrieval)}.\n"


def study_tables(path: Path = ROOT / "docs" / "ablation.json") -> str:
    """Return the study's component tables, per batches: `study_tables(Path("docs/ablation.json"))`."""
    results = json.loads(path.read_text())
    parts = [
        f"{batches}:\n\n{study_overview(results, experiment)}"
        for experiment, batches in BATCHES.items()
        if experiment in results["experiments"]
    ]
    n_seeds = len(results["plan"]["seeds"])
    parts.append(f"Seen / unseen style. R@1 is among {gallery_of(results)}; a dash: not measured.\n")
    seeds = f"mean over {n_seeds} seeds" if n_seeds > 1 else "one seed"
    parts.append(f"Percent, {seeds}. `{results['command']}`\n")
    return "\n".join(parts)


def collapse_record(path: Path = ROOT / "docs" / "ablation.json") -> dict:
    """Return the recording of the study's experiment "collapse": `collapse_record()["recall"]`.

    Raises ValueError for results without it.
    """
    results = json.loads(path.read_text())
    if "collapse" not in results["experiments"]:
        raise ValueError(f"{path.name}: no 'collapse'; run python -m experiments.paper ablate --experiment collapse")
    variants = variants_of(results, "collapse")
    return {
        "curves": {name: [_loss_curve(run["history"]) for run in runs] for name, runs in variants.items()},
        "recall": {
            name: round(value_of(results, "collapse", name, "text → image R@1, unseen style").percent, 1)
            for name in variants
        },
        "command": results["command"],
    }


def _loss_curve(history: dict) -> dict:
    return {"step": history["step"], "contrastive": [round(loss, 4) for loss in history["contrastive"]]}


def targets_table(folder: Path = ROOT / "experiments" / "benchmarks" / "results") -> str:
    """Return a table of all targets on the benchmarks' pages, with the measured values."""
    rows = [
        [f"[{page.stem}](../experiments/benchmarks/results/{page.name})", name, bound, measured, result, state(page)]
        for page in sorted(folder.glob("*.md"))
        for name, measured, bound, result in find_targets(page.read_text())
    ]
    return markdown_rows(["benchmark", "measurement", "target", "measured", "result", "machine"], rows, "lllrll")


def state(page: Path) -> str:
    """Return whether the machine was idle while a benchmark ran, if that was recorded."""
    load = read_values(page.with_suffix(".json"))["load"]
    if not isinstance(load, dict) or load["others"] is None:
        return "not known"
    return "idle" if load["idle"] else f"not idle: {100 * load['others']:.0f} % other load"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
