"""The experiments: what the issue of each is, cells shared among them, and settings that follow a cell."""

import pytest

from experiments.paper import EXPERIMENTS, Plan, experiment
from experiments.paper.runs import settings


def rows(name, plan=Plan()):  # noqa: B008
    return {row.name: row.cells for row in experiment(name, plan).rows}


def test_the_components_differ_in_just_what_their_names_say():
    found = rows("components")
    assert list(found) == [
        "emoji-clip", "emoji-clip, trained on", "base", "+ soft prompt", "+ LoRA", "+ both", "+ both + next-token",
        "contrastive on long captions",
    ]  # fmt: skip
    first = {name: cells[0] for name, cells in found.items()}
    learns = {name: (cell.soft_prompt, bool(cell.lora_rank), cell.next_token_weight) for name, cell in first.items()}
    assert learns["base"] == (False, False, 0) and first["base"].seed is None
    assert learns["+ soft prompt"] == (True, False, 0) and learns["+ LoRA"] == (False, True, 0)
    assert learns["+ both"] == (True, True, 0) and learns["+ both + next-token"] == (True, True, 1)
    assert first["contrastive on long captions"].captions == "long"
    clip_on, full = first["emoji-clip, trained on"], first["+ both + next-token"]
    assert (clip_on.steps, clip_on.batch_size) == (full.steps, full.batch_size)
    assert all(len({cell.seed for cell in cells}) == (1 if cells[0].seed is None else 3) for cells in found.values())


def test_a_level_that_is_the_usual_one_is_the_components_own_cell():
    full = rows("components")["+ both + next-token"][0]
    for name in ("batch-size", "data-size", "rank", "temperature", "next-token-weight", "negatives"):
        assert full in experiment(name).cells(), name
    assert set(experiment("generation").cells()) <= set(experiment("components").cells())


def test_levels_differ_from_the_usual_one_in_what_they_vary():
    assert [cells[0].lora_rank for cells in rows("rank").values()] == [1, 4, 16, 64]
    assert [cells[0].learn_temperature for cells in rows("temperature").values()] == [False, False, False, True]
    assert [cells[0].next_token_weight for cells in rows("next-token-weight").values()] == [0, 0.3, 1, 3]
    assert [cells[0].pairs for cells in rows("data-size").values()] == [150, 600, None]
    assert [cells[0].negatives for cells in rows("negatives").values()] == [False, True]


def test_the_soft_prompts_rates_begin_at_loras_and_stand_beside_the_base():
    (base,), *alone = rows("soft-prompt-rate").values()
    assert base == rows("components")["base"][0]
    assert alone[0][0] == rows("components")["+ soft prompt"][0]
    assert [cells[0].learning_rate for cells in alone] == [0.0005, 0.005, 0.05]
    assert all(cells[0].soft_prompt and not cells[0].lora_rank for cells in alone)


def test_all_batch_sizes_see_about_as_many_pairs():
    for (cell,) in rows("batch-size", Plan(steps=100)).values():
        assert 6400 - cell.batch_size < cell.steps * cell.batch_size <= 6400


def test_every_row_that_is_compared_is_there():
    for name in EXPERIMENTS:
        one = experiment(name)
        assert one.compared and {row for pair in one.compared for row in pair} <= {row.name for row in one.rows}


def test_a_cells_settings_are_those_of_the_training():
    (cell, *_) = rows("temperature")["fixed 0.02"]
    made = settings(cell)
    assert (made.steps, made.batch_size, made.learn_temperature, made.short_limit) == (80, 64, False, 30)
    long = settings(rows("components")["contrastive on long captions"][2])
    assert long.short_limit == 501 and long.next_token_weight == 0 and long.seed == 2


def test_an_unknown_experiment_lists_the_known_ones():
    with pytest.raises(ValueError, match="'ranks'.*components.*negatives"):
        experiment("ranks")
