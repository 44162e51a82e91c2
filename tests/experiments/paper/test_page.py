"""The page: a line a claim with its verdict, the tables, the command, and nothing that was not measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments.paper.claims import CLAIMS
from experiments.paper.page import reproduction_page, write_reproduction
from experiments.paper.plan import BASE, CLIP, FULL
from vladva_kit.cli.app import app


def rows_of(results):
    return {row["name"]: row["cells"] for row in results["experiments"]["components"]["rows"]}


def claim_lines(page):
    table = page.split("## Claims")[1].split("## ")[0]
    return [line for line in table.splitlines() if line.startswith("| ")][2:]


def test_every_claim_has_a_line_with_the_papers_figure_a_verdict_and_its_command(results):
    lines = claim_lines(reproduction_page(results, ["retrieval"]))
    assert len(lines) == len(CLAIMS)
    for line, claim in zip(lines, CLAIMS, strict=True):
        assert claim.text in line and claim.paper in line and f"--experiment {claim.experiment}`" in line
        assert re.search(r"\*\*(holds|holds in part|does not hold here)\*\*", line)


def test_what_happens_inside_has_a_line_a_row_that_was_read(results):
    table = reproduction_page(results, []).split("## Inside")[1]
    base, full = (next(line for line in table.splitlines() if line.startswith(f"| {row} |")) for row in (BASE, FULL))
    seeds = [results["cells"][name]["inside"] for name in rows_of(results)[FULL]]
    entropy = [np.mean([np.mean(one["entropy"][side]) for one in seeds]) for side in ("image", "text")]
    assert (
        f"| {entropy[0]:.2f} / {entropy[1]:.2f} |" in full and "| 30.0 / 32.0 |" in full and "| 10.0 / 12.0 |" in base
    )
    assert full.endswith("| dog 12, the 3 |") and "| 0.25 |" in full and CLIP not in table


def test_what_was_not_run_says_so_and_shows_no_number(results):
    only = {**results, "experiments": {"rank": results["experiments"]["rank"]}, "prompts": None}
    lines = claim_lines(reproduction_page(only, []))
    unmeasured = [line for line in lines if "**not measured**" in line]
    assert len(unmeasured) == len(CLAIMS) - 1 and all("| — |" in line for line in unmeasured)


def test_the_command_writes_page_figures_and_results(results, tmp_path):
    results["experiments"] = {name: results["experiments"][name] for name in ("rank", "generation")}
    (tmp_path / "results.json").write_text(json.dumps(results))
    out = tmp_path / "docs"
    done = CliRunner().invoke(app, ["reproduction", str(tmp_path / "results.json"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    page = (out / "reproduction.md").read_text()
    assert json.loads((out / "ablation.json").read_text()) == json.loads((tmp_path / "results.json").read_text())
    linked = set(re.findall(r"\((figures/[\w-]+\.png)\)", page))
    assert {Path(name).stem for name in linked} == {"rank", "generation", "prompts"} and all(
        (out / name).is_file() for name in linked
    )
    assert "vladva ablate --experiment all" in page and f"{tmp_path / 'results.json'}" in page
    assert all(f"## {name.replace('-', ' ').capitalize()}" in page for name in results["experiments"])


def test_results_of_something_else_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the results hold models: give results.json of `vladva ablate`"):
        write_reproduction({"models": {}}, tmp_path)
    assert list(tmp_path.iterdir()) == []
