"""The experiments: how variants differ, which runs they share, and the training settings of a run."""

from dataclasses import replace

import pytest

from experiments.paper.plan import BASE, BOTH, CLIP, CLIP_TUNED, EXPERIMENTS, FULL, LONG, LORA, SOFT, Plan, experiment
from experiments.paper.runs import training_settings


def variants(name, plan=Plan()):  # noqa: B008
    return {variant.name: variant.runs for variant in experiment(name, plan).variants}


def test_components_differ_only_in_what_their_names_say():
    first = {name: runs[0] for name, runs in variants("components").items()}
    assert list(first) == [CLIP, CLIP_TUNED, BASE, SOFT, LORA, BOTH, FULL, LONG]
    trained = {name: (run.soft_prompt, bool(run.lora_rank), run.next_token_weight) for name, run in first.items()}
    assert trained[BASE] == (False, False, 0) and first[BASE].seed is None
    assert trained[SOFT] == (True, False, 0) and trained[LORA] == (False, True, 0)
    assert trained[BOTH] == (True, True, 0) and trained[FULL] == (True, True, 1)
    assert trained[LONG] == (True, True, 0) and first[LONG].captions == "long"
    assert (first[CLIP_TUNED].steps, first[CLIP_TUNED].batch_size) == (first[FULL].steps, first[FULL].batch_size)


def test_trained_components_have_three_seeds():
    for runs in variants("components").values():
        assert [run.seed for run in runs] in ([None], [0, 1, 2])


@pytest.mark.parametrize(
    "name, level",
    [("batch-size", "batch 64"), ("data-size", "all pairs"), ("rank", "rank 16"), ("temperature", "learned from 0.07"),
     ("next-token-weight", "weight 1"), ("negatives", "random negatives")],
)  # fmt: skip
def test_default_level_of_a_sweep_shares_the_run_of_components(name, level):
    assert variants(name)[level] == variants("components")[FULL][:1]


def test_generation_needs_no_runs_of_its_own():
    assert set(experiment("generation").runs()) <= set(experiment("components").runs())


def test_sweeps_vary_one_setting():
    assert [runs[0].lora_rank for runs in variants("rank").values()] == [1, 4, 16, 64]
    assert [runs[0].learn_temperature for runs in variants("temperature").values()] == [False, False, False, True]
    assert [runs[0].next_token_weight for runs in variants("next-token-weight").values()] == [0, 0.3, 1, 3]
    assert [runs[0].n_pairs for runs in variants("data-size").values()] == [150, 600, None]
    assert [runs[0].hard_negatives for runs in variants("negatives").values()] == [False, True]


def test_distillation_compares_each_kind_of_batches_without_and_with_it_on_three_seeds():
    one, runs = experiment("distillation"), variants("distillation")
    assert [name for pair in one.comparisons for name in pair] == list(runs) and len(runs) == 6
    for first, second in one.comparisons:
        for plain, distilled in zip(runs[first], runs[second], strict=True):
            assert replace(plain, distill_weight=1.0) == distilled and plain.distill_weight == 0
        assert [run.seed for run in runs[second]] == [0, 1, 2]
    assert training_settings(runs["twins + distillation"][0]).distill_weight == 1


def test_soft_prompt_rates_start_at_loras_rate_next_to_the_base():
    (base,), *alone = variants("soft-prompt-rate").values()
    assert base == variants("components")[BASE][0]
    assert alone[0][0] == variants("components")[SOFT][0]
    assert [runs[0].learning_rate for runs in alone] == [0.0005, 0.005, 0.05]
    assert all(runs[0].soft_prompt and not runs[0].lora_rank for runs in alone)


def test_all_batch_sizes_see_about_equally_many_pairs():
    for (run,) in variants("batch-size", Plan(steps=100)).values():
        assert 6400 - run.batch_size < run.steps * run.batch_size <= 6400


def test_compared_variants_exist():
    for name in EXPERIMENTS:
        one = experiment(name)
        compared = {name for pair in one.comparisons for name in pair}
        assert compared and compared <= {variant.name for variant in one.variants}


def test_training_settings_follow_the_run():
    settings = training_settings(variants("temperature")["fixed 0.02"][0])
    assert (settings.steps, settings.batch_size, settings.learn_temperature) == (80, 64, False)
    assert settings.short_limit == 30
    long = training_settings(variants("components")[LONG][2])
    assert long.short_limit == 501 and long.next_token_weight == 0 and long.seed == 2


def test_unknown_experiment_lists_the_known_ones():
    with pytest.raises(ValueError, match="'ranks'.*components.*negatives"):
        experiment("ranks")
