"""Twins differ by one swap, each caption is true of its own image only, and held-out combinations never occur."""

import random
from dataclasses import replace

import pytest

from experiments.world.twins import SWAPS, held_out, twin_group
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene, swapped
from vladva_kit.emoji_world.truth import is_true


def groups(n, *arguments):
    rng = random.Random(5)
    return [twin_group(rng, *arguments) for _ in range(n)]


def test_each_caption_is_true_of_its_own_scene_only():
    for group in groups(40):
        assert 3 <= len(group) <= 4
        for twin in group:
            assert [is_true(twin.caption, other.scene) for other in group] == [other is twin for other in group]


def test_a_twin_is_the_original_scene_after_its_swap_with_other_random_details():
    for group in groups(40):
        original = next(twin.scene for twin in group if twin.swap is None)
        for twin in group:
            if twin.swap:
                expected = swapped(original, *SWAPS[twin.swap])
                assert replace(twin.scene, seed=0) == replace(expected, seed=0)
                assert twin.scene.seed != original.seed


@pytest.mark.parametrize("swap", SWAPS)
def test_a_single_swap_gives_pairs_of_that_swap(swap):
    assert {one.swap for group in groups(10, (swap,)) for one in group} == {None, swap}


def test_all_swaps_occur():
    assert {twin.swap for group in groups(60) for twin in group} == {None, *SWAPS}


def test_a_combination_is_held_out_whatever_the_order_position_and_style():
    rng = random.Random(0)
    scene = next(s for s in iter(lambda: sample_scene(rng, 2), None) if held_out(s))
    assert held_out(replace(scene, things=scene.things[::-1], style=2, seed=1, ground="sand"))
    share = sum(held_out(sample_scene(rng, 2, colored=0.0)) for _ in range(2000)) / 2000
    assert 0.05 < share < 0.12  # of noun pairs; about one in twelve
    assert not held_out(Scene((Thing("dog"),)))


def test_no_group_contains_a_held_out_combination():
    assert not any(held_out(twin.scene) for group in groups(60) for twin in group)


def test_an_unknown_swap_is_an_error():
    with pytest.raises(KeyError, match="tint"):
        twin_group(random.Random(0), ("tint",))
