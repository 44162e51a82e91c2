"""docs/reproduction.md, made from the results of `vladva ablate`: claim, the paper's figure, ours, verdict, command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.paper.claims import CLAIMS, Claim
from experiments.paper.figures import claim_figures
from experiments.paper.tables import comparison_lines, markdown_table
from vladva_kit.evaluation import markdown
from vladva_kit.models.files import atomic_write, write_json
from vladva_kit.plots.style import save

PAGE, FIGURES, RESULTS = "reproduction.md", "figures", "ablation.json"


def write_reproduction(results: Mapping[str, Any], folder: str | Path, command: str = "vladva reproduction") -> Path:
    """Writes reproduction.md, its figures as PNG and SVG, and the results themselves beside it; returns the page.

        write_reproduction(json.loads(Path("runs/ablation/results.json").read_text()), "docs")

    Raises ValueError for results of something else than `vladva ablate`.
    """
    if "experiments" not in results:
        raise ValueError(f"the results hold {', '.join(results) or 'nothing'}: give results.json of `vladva ablate`")
    folder = Path(folder)
    figures = claim_figures(results)
    for name, figure in figures.items():
        save(figure, folder / FIGURES / name)
    write_json(folder / RESULTS, results, indent=None)
    page = folder / PAGE
    atomic_write({page: reproduction_page(results, list(figures), command).encode()})
    return page


def reproduction_page(results: Mapping[str, Any], figures: list[str], command: str = "vladva reproduction") -> str:
    """The page as Markdown; a claim whose experiment was not run is there and says so."""
    parts = [_head(results, command), _claims(results, figures)]
    for name, one in results["experiments"].items():
        rows = {cell: results["cells"][cell] for row in one["rows"] for cell in row["cells"]}
        seconds = sum(sum(cell["seconds"].values()) for cell in rows.values())
        seeds = max(len(row["cells"]) for row in one["rows"])
        parts += [
            f"## {name.replace('-', ' ').capitalize()}\n",
            f"`vladva ablate --experiment {name}`: {len(rows)} cells, {seconds / 60:.0f} minutes, "
            f"{seeds} {'seed' if seeds == 1 else 'seeds'} a trained row.\n",
            markdown_table(results, name),
            "<details><summary>Neighboring rows, compared case by case</summary>\n",
            comparison_lines(results, name),
            "</details>\n",
        ]
    if "components" in results["experiments"]:
        parts.append(_inside(results))
    return "\n".join(parts)


def _inside(results: Mapping[str, Any]) -> str:
    """What the summary tokens do in each row that was read: means over the seeds, and the words of the first."""
    names = ["", "entropy (nats)", "effective rank", "modality gap", "attention density (%)", "of its ten words"]
    lines, read = [], 0
    for row in results["experiments"]["components"]["rows"]:
        seeds = [found for found in (results["cells"][name].get("inside") for name in row["cells"]) if found]
        if seeds:
            read = seeds[0]["n"]
            lines.append([row["name"], *_figures(seeds), _words(seeds[0])])
    return (
        "## Inside\n\n"
        f"The summary tokens of {read} pictures and {read} captions: pictures / captions, means over the seeds. Words: "
        "the commonest among the ten likeliest after a picture, and after how many pictures they are (seed 0).\n\n"
        + markdown.table(names, lines, "lrrrrl")
    )


def _figures(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    def mean(key: str, side: str) -> float:
        return float(np.mean([np.mean(one[key][side]) for one in seeds]))

    both = [
        " / ".join(f"{mean(key, side):.{places}f}" for side in ("image", "text"))
        for key, places in (("entropy", 2), ("effective_rank", 1))
    ]
    gap, density = (np.mean([np.mean(one[key]) for one in seeds]) for key in ("modality_gap", "density"))
    return [*both, f"{gap:.2f}", f"{100 * density:.1f}"]


def _words(found: Mapping[str, Any], most: int = 4) -> str:
    words = sorted(found["words"]["image"].items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{word} {count}" for word, count in words)


def _head(results: Mapping[str, Any], command: str) -> str:
    plan, versions = results["plan"], results["versions"]
    return (
        "# The paper's study in miniature\n\n"
        f"Written by `{command}` from [{RESULTS}]({RESULTS}), which `{results['command']}` made; not by hand. "
        f"Each training is {plan['steps']} steps of {plan['batch_size']} pairs on emoji-llava. The paper's figures are "
        "those of LLaVA-1.5-7B on real pictures (arXiv 2412.04378): only the directions can be compared.\n\n"
        "A figure is the mean over the seeds ± their standard deviation; in brackets the 95 % bootstrap interval over "
        "the cases. Rows are compared case by case: a gain counts where its paired interval leaves out 0. "
        f"A claim holds where all of its figures do, in part where some do. Intervals are for each figure by itself; "
        "among so many, one in twenty would leave out 0 by chance.\n\n"
        f"Made with {', '.join(f'{name} {version}' for name, version in versions.items())}.\n"
    )


def _claims(results: Mapping[str, Any], figures: list[str]) -> str:
    heading = ["claim", "the paper", "here", "verdict", "command"]
    return "## Claims\n\n" + markdown.table(heading, [_line(claim, results, figures) for claim in CLAIMS], "lllll")


def _line(claim: Claim, results: Mapping[str, Any], figures: list[str]) -> list[str]:
    found = claim.found(results)
    shown = f"[{claim.text}]({FIGURES}/{claim.figure}.png)" if claim.figure in figures else claim.text
    command = f"`vladva ablate --experiment {claim.experiment}`"
    return [shown, claim.paper, found.ours or "—", f"**{found.verdict}**", command]
