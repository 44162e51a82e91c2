"""The experiments: how variants differ, which runs they share, and the training settings of a run."""

from dataclasses import asdict, replace

import pytest

from experiments.paper.plan import (
    BASE,
    BOTH,
    CLIP,
    CLIP_FASTER,
    CLIP_TUNED,
    EXPERIMENTS,
    FULL,
    LONG,
    LORA,
    SOFT,
    Plan,
    experiment,
)
from experiments.paper.runs import training_settings

EVALUATION = {"n_generation_images": 0, "generate_adapter_off": False, "n_probe_images": 0}


def variants(name, plan=Plan()):  # noqa: B008
    return {variant.name: variant.runs for variant in experiment(name, plan).variants}


def trained_runs(name):
    """The first run of every trained variant."""
    return [runs[0] for runs in variants(name).values() if runs[0].seed is not None]


def test_components_differ_only_in_what_their_names_say():
    first = {name: runs[0] for name, runs in variants("components").items()}
    assert list(first) == [CLIP, CLIP_TUNED, CLIP_FASTER, BASE, SOFT, LORA, BOTH, FULL]
    trained = {name: (run.soft_prompt, bool(run.lora_rank), run.next_token_weight) for name, run in first.items()}
    assert trained[BASE] == (False, False, 0) and first[BASE].seed is None
    assert trained[SOFT] == (True, False, 0) and trained[LORA] == (False, True, 0)
    assert trained[BOTH] == (True, True, 0) and trained[FULL] == (True, True, 0.3)
    assert (first[CLIP_TUNED].steps, first[CLIP_TUNED].batch_size) == (first[FULL].steps, first[FULL].batch_size)
    assert replace(first[CLIP_TUNED], learning_rate=5 * first[CLIP_TUNED].learning_rate) == first[CLIP_FASTER]
    assert first[BASE].n_generation_images == first[FULL].n_generation_images > 0
    hard = {"groups": 0.125, "mined": 0.5, "random": 0.375}
    assert all(dict(run.batches) == hard for run in trained_runs("components"))


def test_random_components_differ_from_components_in_their_batches():
    random, hard = variants("components-random"), variants("components")
    assert list(random) == [CLIP, CLIP_TUNED, BASE, BOTH, FULL, LONG]
    assert random[CLIP] == hard[CLIP] and random[BASE] == hard[BASE]
    for name in (CLIP_TUNED, BOTH, FULL):
        for run, other in zip(random[name], hard[name], strict=True):
            assert replace(other, batches=(("random", 1.0),), n_groups=0, generate_adapter_off=False) == run
    for run, short in zip(random[LONG], random[BOTH], strict=True):
        assert replace(short, captions="long", n_generation_images=0, n_probe_images=0) == run


@pytest.mark.parametrize("name", ["components", "components-random"])
def test_trained_components_have_three_seeds(name):
    seeds = {variant: [run.seed for run in runs] for variant, runs in variants(name).items()}
    assert {variant for variant, one in seeds.items() if one == [None]} == {CLIP, BASE}
    assert all(one == [0, 1, 2] for variant, one in seeds.items() if variant not in (CLIP, BASE))


@pytest.mark.parametrize(
    "name, level",
    [("data-size", "all groups"), ("rank", "rank 16"), ("temperature", "learned from 0.07"),
     ("next-token-weight", "weight 0.3"), ("interpolation", "LoRA x 1")],
)  # fmt: skip
def test_default_level_of_a_sweep_shares_the_run_of_components(name, level):
    assert variants(name)[level] == variants("components")[FULL][:1]


def test_default_batch_size_differs_from_components_in_its_mix():
    (run,), (full, *_) = variants("batch-size")["batch 64"], variants("components")[FULL]
    assert run == replace(full, batches=run.batches, **EVALUATION) != replace(full, **EVALUATION)
    assert {one.batches for one in trained_runs("batch-size")} == {run.batches}
    assert dict(run.batches) == {"groups": 0.25, "mined": 0.5, "random": 0.25}


def test_random_batches_of_negatives_train_like_random_components():
    (run,), (full, *_) = variants("negatives")["random batches"], variants("components-random")[FULL]
    assert run == replace(full, **EVALUATION)


@pytest.mark.parametrize(
    "name, settings",
    [("twins", {"batches", "n_groups"}), ("swaps", {"swaps"}), ("pool", {"n_scenes"}),
     ("interpolation", {"lora_weight"}),
     ("next-token-weight", {"next_token_weight"}), ("batch-size", {"batch_size", "steps"}), ("data-size", {"n_groups"}),
     ("rank", {"lora_rank"}), ("temperature", {"temperature", "learn_temperature"}), ("negatives", {"hard_negatives"}),
     ("distillation-twins", {"distill_weight"}), ("soft-prompt-rate", {"soft_prompt_learning_rate"}),
     ("collapse", {"captions"})],
)  # fmt: skip
def test_sweeps_vary_one_setting(name, settings):
    levels = [asdict(run) for run in trained_runs(name)]
    assert {key for key in levels[0] if len({level[key] for level in levels}) > 1} - EVALUATION.keys() == settings


def test_sweeps_have_the_levels_that_their_names_say():
    assert [runs[0].lora_rank for runs in variants("rank").values()] == [1, 4, 16, 64]
    assert [runs[0].learn_temperature for runs in variants("temperature").values()] == [False, False, False, True]
    assert [runs[0].next_token_weight for runs in variants("next-token-weight").values()] == [0, 0.3, 1, 3]
    assert [runs[0].n_groups for runs in variants("data-size").values()] == [40, 150, None]
    assert [runs[0].hard_negatives for runs in variants("negatives").values()] == [False, True]
    assert [runs[0].lora_weight for runs in variants("interpolation").values()] == [1, 0.8, 0.6, 0.4]
    assert {name: runs[0].n_scenes for name, runs in variants("pool").items()} == {
        "1,000 scenes": 1_000, "10,000 scenes": 10_000, "30,000 scenes": 30_000
    }  # fmt: skip
    assert all("groups" not in dict(run.batches) for run in trained_runs("pool"))  # drawn scenes have no twins


def test_twins_and_swaps_are_compared_with_the_base():
    shares = [dict(run.batches) for run in trained_runs("twins")]
    assert [share.get("groups") for share in shares] == [None, 0, 0.125, 0.25, 0.5, 1]
    assert all(sum(share.values()) == 1 for share in shares)
    assert [run.n_groups for run in trained_runs("twins")] == [0, None, None, None, None, None]
    swaps = [run.swaps for run in trained_runs("swaps")]
    assert swaps == [("positions",), ("noun",), ("color",), ("size",)]
    for name in ("twins", "swaps"):
        assert next(iter(variants(name).items())) == (BASE, variants("components")[BASE])


def test_sweeps_have_one_seed():
    for name in EXPERIMENTS:
        if name.startswith(("components", "distillation")):
            continue
        assert all([run.seed for run in runs] in ([0], [None]) for runs in variants(name).values())


@pytest.mark.parametrize("batches", ["random", "mined", "twins"])
def test_distillation_compares_one_kind_of_batches_without_and_with_it_on_three_seeds(batches):
    plain, distilled = variants(f"distillation-{batches}").values()
    assert experiment(f"distillation-{batches}").comparisons == ((batches, f"{batches} + distillation"),)
    for without, with_it in zip(plain, distilled, strict=True):
        assert replace(without, distill_weight=1.0) == with_it and without.distill_weight == 0
    assert [run.seed for run in distilled] == [0, 1, 2]
    assert training_settings(distilled[0]).distill_weight == 1


def test_soft_prompt_rates_end_at_the_rate_of_components_next_to_the_base():
    (base,), *alone = variants("soft-prompt-rate").values()
    assert base == variants("components")[BASE][0]
    assert replace(alone[-1][0], **EVALUATION) == variants("components")[SOFT][0]
    rates = [runs[0].soft_prompt_learning_rate for runs in alone]
    assert rates == pytest.approx([0.0001, 0.001, 0.05]) and rates[1] == variants("components")[LORA][0].learning_rate
    assert [training_settings(runs[0]).soft_prompt_learning_rate for runs in alone] == rates
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
    assert settings.batches == {"groups": 0.125, "mined": 0.5, "random": 0.375}
    long = training_settings(variants("components-random")[LONG][2])
    assert long.long_limit >= long.short_limit == 501 and long.next_token_weight == 0 and long.seed == 2


def test_unknown_experiment_lists_the_known_ones():
    with pytest.raises(ValueError, match="'ranks'.*components.*negatives"):
        experiment("ranks")


def test_clip_is_trained_at_two_rates_and_ten_times_as_long_as_in_the_components():
    plan, levels = Plan(), variants("clip-steps")
    assert list(levels) == [CLIP, *(f"{n} steps{rate}" for n in (80, 800) for rate in ("", ", 5 x learning rate"))]
    tuned, faster, long, long_faster = (runs[0] for runs in list(levels.values())[1:])
    components = variants("components")
    assert tuned == components[CLIP_TUNED][0] and faster == components[CLIP_FASTER][0]
    assert replace(tuned, steps=10 * plan.steps) == long and replace(faster, steps=10 * plan.steps) == long_faster
