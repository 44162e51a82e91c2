"""Cells and their files: what a record holds, what a kill costs, and what other settings find."""

import json

import pytest

from vladva_kit.ablation import experiment, run, run_cell, run_experiments
from vladva_kit.ablation.tables import COLUMNS, comparison_lines, figure_of, markdown_table


def numbers(record):
    """A record as JSON gives it back, without the clock."""
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.fixture(scope="module")
def killed_and_resumed(small_samples, tmp_path_factory):
    """The components, stopped after the third cell and started again."""
    import vladva_kit as vk
    from vladva_kit.ablation import Plan, cells

    out, ran = tmp_path_factory.mktemp("ablation"), []
    plan = Plan(steps=2, batch_size=4, seeds=(0,), talks_about=2, reads=6, prompt_pictures=6)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cells, "PROBED", 2)
        patched.setattr(vk, "sample", small_samples.__getitem__, raising=False)

        def counted(cell):
            if len(ran) == 3:
                ran.append("killed")
                raise KeyboardInterrupt
            ran.append(cell)
            return run_cell(cell)

        patched.setattr(run, "run_cell", counted)
        with pytest.raises(KeyboardInterrupt):
            run_experiments(["components"], plan, out, say=lambda _: None)
        assert not (out / "results.json").exists()
        results = run_experiments(["components"], plan, out, "vladva ablate", lambda _: None)
        return out, plan, ran, json.loads((out / "results.json").read_text()), results


def test_a_killed_run_goes_on_from_its_last_cell(killed_and_resumed):
    _, plan, ran, saved, _ = killed_and_resumed
    assert [cell for cell in ran if cell != "killed"] == experiment("components", plan).cells()  # each once
    assert set(saved["experiments"]) == {"components", "generation"}  # the second needs no cell of its own


def test_a_cell_run_again_gives_the_same_numbers(killed_and_resumed, small_world):
    _, plan, _, saved, _ = killed_and_resumed
    for row in ("+ both + next-token", "emoji-clip, trained on"):
        (cell,) = next(one.cells for one in experiment("components", plan).rows if one.name == row)
        (name,) = next(one["cells"] for one in saved["experiments"]["components"]["rows"] if one["name"] == row)
        again = json.loads(
            json.dumps(run_cell(cell), default=lambda value: getattr(value, "__dict__", None) or value.tolist())
        )
        assert numbers(again) == numbers(saved["cells"][name])


def test_a_record_holds_curve_measures_and_what_happens_inside(killed_and_resumed):
    *_, saved, _ = killed_and_resumed
    rows = {row["name"]: saved["cells"][row["cells"][0]] for row in saved["experiments"]["components"]["rows"]}
    full = rows["+ both + next-token"]
    assert full["history"]["step"] == [1, 2] and full["adapter_off_equal"] is True
    assert full["learning"]["soft prompt"] and full["learning"]["LoRA"]
    assert rows["+ soft prompt"]["learning"]["LoRA"] == 0 and rows["+ LoRA"]["learning"]["soft prompt"] == 0
    assert rows["+ both"]["history"]["next_token"] == [0, 0] and min(full["history"]["next_token"]) > 0
    assert rows["contrastive on long captions"]["history"]["contrastive"][0] > 0
    assert set(full["inside"]["entropy"]) == {"image", "text"} and len(full["inside"]["entropy"]["image"]) == 6
    assert full["inside"]["prompt"]["image"]["unchanged"] <= 1 and rows["base"]["inside"]["density"]
    assert "history" not in rows["base"] and "inside" not in rows["emoji-clip"]


def test_the_base_asked_again_with_the_adapter_off_answers_as_before(killed_and_resumed):
    *_, saved, _ = killed_and_resumed
    for column in COLUMNS:
        if ", adapter off" in column:
            figures = [figure_of(saved, "components", row, column) for row in ("base", "+ both", "+ both + next-token")]
            assert figures[0] == figures[1] == figures[2] is not None
    assert figure_of(saved, "components", "emoji-clip", "question accuracy, adapter off, seen") is None


def test_tables_have_a_line_a_column_and_a_column_a_row(killed_and_resumed):
    *_, saved, _ = killed_and_resumed
    table = markdown_table(saved, "components").splitlines()
    assert len(table) == 2 + len(COLUMNS)
    assert table[0].startswith("|  | emoji-clip | emoji-clip, trained on | base |") and all(
        line.count("|") == table[0].count("|") for line in table
    )
    lines = comparison_lines(saved, "components")
    assert "| base → + soft prompt | text → image R@1, seen |" in lines
    assert lines.count("\n") > 2 + 9 * 16 - 1


def test_other_settings_find_nothing_to_go_on_from(killed_and_resumed, small_world, monkeypatch):
    out, plan, *_ = killed_and_resumed
    import dataclasses

    def refused(cell):
        raise RuntimeError(f"a cell of {cell.steps} steps is run")

    monkeypatch.setattr(run, "run_cell", refused)
    with pytest.raises(RuntimeError, match="a cell of 3 steps is run"):
        run_experiments(["components"], dataclasses.replace(plan, steps=3), out, say=lambda _: None)
    before = sorted(path.name for path in (out / "cells").iterdir())
    run_experiments(["generation"], plan, out, say=lambda _: None)  # all there: nothing is run
    assert sorted(path.name for path in (out / "cells").iterdir()) == before


def test_hard_negatives_are_given_to_the_training(small_world, small_plan):
    from vladva_kit.ablation.cells import _pairs

    with_swaps = next(row.cells[0] for row in experiment("negatives", small_plan).rows if "swapped" in row.name)
    pairs = _pairs(with_swaps)
    assert sum(bool(pair.negatives) for pair in pairs) > len(pairs) / 2
    record = run_cell(with_swaps)
    assert len(record["history"]["loss"]) == 2 and "generation/seen/questions" not in record["measures"]


def test_an_unknown_experiment_is_refused_before_anything_is_run(small_world, small_plan, tmp_path):
    with pytest.raises(ValueError, match="no experiment is called 'ranks'"):
        run_experiments(["components", "ranks"], small_plan, tmp_path)
    assert list(tmp_path.iterdir()) == []
