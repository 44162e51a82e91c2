"""The page: one row per claim with its verdict, the tables, the commands, and no value that was not measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import vladva_kit as vk
from experiments.paper.__main__ import app
from experiments.paper.claims import CLAIMS
from experiments.paper.page import reproduction_page, write_reproduction
from experiments.paper.plan import BASE, CLIP, FULL
from experiments.paper.tables import STYLES, runs_of, value_of


def claim_rows(page):
    table = page.split("## Claims")[1].split("## ")[0]
    return [line for line in table.splitlines() if line.startswith("| ")][2:]


def test_every_claim_has_a_row_with_paper_value_verdict_and_command(results):
    page = reproduction_page(results, ["retrieval"])
    rows = claim_rows(page)
    assert len(rows) == len(CLAIMS)
    for row, claim in zip(rows, CLAIMS, strict=True):
        assert claim.text in row and claim.paper in row
        assert f"- **{claim.text}** (`python -m experiments.paper ablate --experiment {claim.experiment}`): " in page
        assert re.search(r"\*\*(supported|partly supported|not supported)\*\*", row)


def test_page_says_what_the_models_were_pretrained_on_and_how_large_the_gallery_is(results):
    page = reproduction_page(results, []).replace("\n", " ")
    for fact in (
        "pretrained on the two embedding prompts with a noun as the answer",
        "marks these two prompts and leaves them out of its correlations",
        "emoji-clip was also trained with a patch-labeling loss",
        "Nouns that were misread in the unseen style were dropped",
        "Retrieval ranks 80 images and 80 captions per style.",
    ):
        assert page.count(fact) == 1


def test_representations_have_a_row_per_probed_variant(results):
    table = reproduction_page(results, []).split("## Representations")[1].split("## ")[0]
    base, full = (next(row for row in table.splitlines() if row.startswith(f"| {name} |")) for name in (BASE, FULL))
    probes = [record["representations"] for record in runs_of(results, "components", FULL)]
    image, text = (np.mean([np.mean(probe["entropy"][side]) for probe in probes]) for side in ("image", "text"))
    assert f"| {image:.2f} / {text:.2f} |" in full
    assert "| 30.0 / 32.0 |" in full and "| 10.0 / 12.0 |" in base
    assert full.endswith("| dog 12, the 3 |") and "| 0.25 |" in full and CLIP not in table


def test_experiments_that_were_not_run_are_named_and_their_claims_left_out(results):
    only = {**results, "experiments": {"rank": results["experiments"]["rank"]}, "prompts": None}
    page = reproduction_page(only, [])
    assert len(claim_rows(page)) == 1 and "rank 16" in claim_rows(page)[0].lower()
    (note,) = (line for line in page.splitlines() if line.startswith("Not run yet: "))
    assert "components, " in note and "prompts" in note and "rank" not in note
    assert "Not run yet" not in reproduction_page(results, [])


def test_effects_are_the_means_over_seeds(results):
    page = reproduction_page(results, []).split("## Winoground's effects")[1].split("## ")[0]
    records = runs_of(results, "components", FULL)
    expected = np.mean([record["effects"]["seen"]["interaction"] for record in records])
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {FULL} (hard batches) |"))
    assert row.split("|")[4].strip() == f"{expected:.4f}"
    assert f"| {FULL} (random batches) |" in page


def test_page_opens_with_the_effect_and_the_number_of_claims_by_verdict(results):
    page = reproduction_page(results, ["twin-loss"])
    opening = page.split("## Claims")[0]
    cells = [value_of(results, "components", FULL, f"Winoground group, {style}").percent for style in STYLES]
    assert (
        f"to {cells[0]:.1f} / {cells[1]:.1f} % (seen / unseen style)" in opening and "figures/twin-loss.png" in opening
    )
    counts = [int(n) for n in re.findall(r"(\d+) (?:supported|partly supported|not supported)", opening)]
    assert len(counts) == 3 and sum(counts) == len(CLAIMS)


def test_variant_of_the_next_token_loss_is_tabulated_with_its_command(results):
    section = reproduction_page(results, []).split("## Next token weight")[1].split("\n## ")[0]
    assert "| weight 1, summary token only |" in section
    assert "`python -m experiments.paper ablate --experiment context`" in section


def test_blind_baselines_have_a_row_each(results):
    section = reproduction_page(results, []).split("## Blind baselines")[1].split("## ")[0]
    measures = results["blind"]["shorter caption"]["measures"]
    swaps = [
        np.mean([bit == "1" for bit in measures[f"sugarcrepe/seen/swap_{one}"]["correct"]]) for one in ("obj", "att")
    ]
    (row,) = (line for line in section.splitlines() if line.startswith("| shorter caption |"))
    assert row.split(" | ")[3] == f"{100 * np.mean(swaps):.1f}"


def test_command_writes_page_figures_and_results(results, tmp_path):
    results["experiments"] = {name: results["experiments"][name] for name in ("rank", "twins")}
    source, out = tmp_path / "results.json", tmp_path / "docs"
    source.write_text(json.dumps(results))
    done = CliRunner().invoke(app, ["reproduction", str(source), "--out", str(out)])
    assert done.exit_code == 0, done.output
    page = (out / "reproduction.md").read_text()
    assert json.loads((out / "ablation.json").read_text()) == json.loads(source.read_text())
    linked = set(re.findall(r"\((figures/[\w-]+\.png)\)", page))
    assert {Path(name).stem for name in linked} == {"rank", "twins", "prompts"}
    for name in linked:
        with Image.open(out / name) as image:
            image.load()
    assert results["command"] in page and f"reproduction {source}`" in page
    assert "## Rank" in page and "## Twins" in page


def test_results_of_another_command_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="the results contain models: pass results.json of"):
        write_reproduction({"models": {}}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_swaps_are_tabulated_by_what_a_case_swaps(results):
    table = reproduction_page(results, []).split("By what a case swaps:")[1].split("<details>")[0]
    row = next(line for line in table.splitlines() if line.startswith("| color only |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    (record,) = runs_of(results, "swaps", "color only")
    rows = [json.loads(line) for line in (vk.sample("winoground_mini") / "examples.jsonl").read_text().splitlines()]
    bits = record["measures"]["winoground/seen/group"]["correct"]
    right = [bit == "1" for bit, row in zip(bits, rows, strict=True) if row["tag"] == "relation"]
    assert cells[1].startswith(f"{100 * sum(right) / len(right):.1f} / ")
