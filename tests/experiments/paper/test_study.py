"""Cells and their files: what a record holds, what a kill costs, and what other settings find."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

import vladva_kit as vk
from experiments.paper import EXPERIMENTS, Plan, experiment, plan, run_cell, run_experiments
from experiments.paper import runs as cells
from experiments.paper import study as run
from experiments.paper.tables import COLUMNS, comparison_lines, figure_of, markdown_table, overview
from vladva_kit.cli.app import app
from vladva_kit.data.pairs import load_pairs
from vladva_kit.models.files import write_json


def numbers(record):
    """A record as JSON gives it back, without the clock."""
    return {key: value for key, value in record.items() if key != "seconds"}


ROWS = ("emoji-clip, trained on", "base", "+ soft prompt", "+ both + next-token")  # enough to see every kind of cell


@pytest.fixture(scope="module")
def killed_and_resumed(small_samples, tmp_path_factory):
    """Four rows of the components, stopped after the second cell and started again."""
    out, ran = tmp_path_factory.mktemp("ablation"), []
    small = Plan(steps=2, batch_size=4, seeds=(0,), talks_about=1, reads=4)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cells, "PROBED", 1)
        patched.setattr(vk, "sample", small_samples.__getitem__, raising=False)
        rows = [row for row in EXPERIMENTS["components"](small) if row.name in ROWS]
        patched.setattr(plan, "EXPERIMENTS", {"components": lambda _: rows})
        patched.setattr(run, "EXPERIMENTS", ("components",))

        def counted(cell):
            if len(ran) == 2:
                ran.append("killed")
                raise KeyboardInterrupt
            ran.append(cell)
            return run_cell(cell)

        patched.setattr(run, "run_cell", counted)
        with pytest.raises(KeyboardInterrupt):
            run_experiments(["components"], small, out, say=lambda _: None)
        assert not (out / "results.json").exists()
        run_experiments(["components"], small, out, "vladva ablate", lambda _: None)
        asked = [cell for row in rows for cell in row.cells]
        patched.setattr(run, "run_cell", None)  # all there: nothing is run
        run_experiments(["components"], small, out, "vladva ablate", lambda _: None)
        return asked, ran, json.loads((out / "results.json").read_text())


def record_of(saved, row):
    """The record of a row's only cell."""
    (name,) = next(one["cells"] for one in saved["experiments"]["components"]["rows"] if one["name"] == row)
    return saved["cells"][name]


def test_a_killed_run_goes_on_from_its_last_cell(killed_and_resumed):
    asked, ran, saved = killed_and_resumed
    assert ran[2] == "killed" and [cell for cell in ran if cell != "killed"] == asked  # each once
    assert len(saved["cells"]) == 4 and list(saved["experiments"]) == ["components"]


def test_a_cell_run_again_gives_the_same_numbers(killed_and_resumed, small_world, monkeypatch):
    asked, _, saved = killed_and_resumed
    monkeypatch.setattr(cells, "PROBED", 1)
    for row in ("+ both + next-token", "emoji-clip, trained on"):
        again = write_json(small_world["emoji_pairs"].parent / "again.json", run_cell(asked[ROWS.index(row)]))
        assert numbers(json.loads(again.read_text())) == numbers(record_of(saved, row))


def test_a_record_holds_curve_measures_and_what_happens_inside(killed_and_resumed):
    saved = killed_and_resumed[-1]
    clip, base, soft, full = (record_of(saved, row) for row in ROWS)
    assert full["history"]["step"] == [1, 2] and full["adapter_off_equal"] is soft["adapter_off_equal"] is True
    assert full["learning"]["soft prompt"] and full["learning"]["LoRA"] and soft["learning"]["LoRA"] == 0
    assert soft["history"]["next_token"] == [0, 0] and min(full["history"]["next_token"]) > 0
    assert set(full["inside"]["entropy"]) == {"image", "text"} and len(full["inside"]["entropy"]["image"]) == 4
    assert 0 <= full["inside"]["prompt"]["image"]["unchanged"] <= 1 and base["inside"]["density"]
    assert "history" not in base and "inside" not in clip and clip["history"]["contrastive"][0] > 0


def test_with_the_adapter_off_every_model_answers_as_the_base(killed_and_resumed):
    saved = killed_and_resumed[-1]
    for column in COLUMNS:
        if ", adapter off" in column:  # the last row was asked again, the one before it was only probed
            figures = [figure_of(saved, "components", row, column) for row in ROWS]
            assert figures[1] == figures[2] == figures[3] is not None and figures[0] is None


def test_tables_have_a_line_a_column_and_a_column_a_row(killed_and_resumed):
    saved = killed_and_resumed[-1]
    table = markdown_table(saved, "components").splitlines()
    assert len(table) == 2 + len(COLUMNS)
    assert table[0].startswith("|  | emoji-clip, trained on | base | + soft prompt |")
    assert len({line.count("|") for line in table}) == 1
    lines = comparison_lines(saved, "components")
    assert "| base → + soft prompt | text → image R@1, seen |" in lines


def test_an_overview_has_a_line_a_row_and_one_style_without_intervals(killed_and_resumed):
    saved = killed_and_resumed[-1]
    heading, _, *lines = overview(saved, "components", "unseen style").splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [*ROWS, "guessing"]
    titles = [title.strip() for title in heading.strip("|").split("|")][1:]
    assert titles[0] == "image → text R@1" and "caption truth" in titles and len(titles) == 10
    figure = figure_of(saved, "components", ROWS[-1], "text → image R@1, unseen style")
    assert lines[len(ROWS) - 1].split(" | ")[2] == f"{figure.mean:.1f}" == figure.short  # one seed: no deviation
    assert "[" not in "".join(lines) and lines[0].rstrip(" |").endswith("—")  # the CLIP does not talk


def test_other_settings_weights_or_data_find_nothing_to_go_on_from(small_plan, tmp_path):
    (cell, *_) = experiment("components", small_plan).cells()
    made_from = {"emoji-clip": "one", "emoji-llava": "two"}
    path = run._path(tmp_path, cell, made_from)
    assert run._path(tmp_path, cell, {**made_from, "emoji-llava": "other"}) == path
    others = [run._path(tmp_path, cell, {**made_from, "emoji-clip": "other"})]
    others += [run._path(tmp_path, dataclasses.replace(cell, **{key: 7}), made_from) for key in ("steps", "pairs")]
    assert len({path, *others}) == 4


def test_weights_and_data_are_in_the_fingerprint(small_world, monkeypatch):
    before = run._fingerprint("emoji-clip")
    assert before == run._fingerprint("emoji-clip") != run._fingerprint("emoji-llava")
    other = {**small_world, "winoground_mini": small_world["sugarcrepe_mini"]}
    monkeypatch.setattr(vk, "sample", other.__getitem__)
    assert run._fingerprint("emoji-clip") != before


def test_the_long_captions_row_gives_the_contrastive_loss_the_long_captions(small_world, small_plan):
    (cell,) = next(row.cells for row in experiment("components", small_plan).rows if row.name.endswith("long captions"))
    usual = load_pairs(small_world["emoji_pairs"], "train")
    given = cells._pairs(cell)
    assert [pair.short for pair in given] == [pair.long for pair in usual] and all(pair.long is None for pair in given)
    few = cells._pairs(dataclasses.replace(cell, captions="short", pairs=3))
    assert [pair.short for pair in few] == [pair.short for pair in usual[:3]]


def test_the_command_runs_an_experiment_and_gives_hard_negatives_to_the_training(small_world, small_plan, tmp_path):
    with_swaps = next(row.cells[0] for row in experiment("negatives", small_plan).rows if "swapped" in row.name)
    pairs = cells._pairs(with_swaps)
    assert sum(bool(pair.negatives) for pair in pairs) > len(pairs) / 2
    arguments = ["--experiment", "negatives", "--steps", "2", "--batch-size", "4", "--talks-about", "1", "--seeds", "1"]
    done = CliRunner().invoke(app, ["ablate", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    without, swapped = (results["cells"][row["cells"][0]] for row in results["experiments"]["negatives"]["rows"])
    assert without["history"]["contrastive"][0] < swapped["history"]["contrastive"][0]  # more to be told apart
    assert "generation/seen/questions" not in swapped["measures"] and "| text → image R@1, seen |" in done.output


def test_an_unknown_experiment_is_refused_before_anything_is_run(small_world, small_plan, tmp_path):
    with pytest.raises(ValueError, match="no experiment is called 'ranks'"):
        run_experiments(["components", "ranks"], small_plan, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_prompt_study_is_kept_beside_the_cells(small_world, small_plan, tmp_path, monkeypatch):
    from vladva_kit.analysis import prompt_study

    monkeypatch.setattr(prompt_study, "EMOJI_PROMPTS", prompt_study.EMOJI_PROMPTS[:3])
    first = run_experiments(["prompts"], small_plan, tmp_path, say=lambda _: None)
    assert len(first["prompts"]["prompts"]) == 3 and first["prompts"]["n"] == 4
    monkeypatch.setattr(run, "study_emoji_prompts", None)  # there already: it is not called again
    assert run_experiments(["prompts"], small_plan, tmp_path, say=lambda _: None)["prompts"] == first["prompts"]
