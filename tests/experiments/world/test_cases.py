"""Winoground-like cases: two scenes whose captions use the same words."""

import random

import pytest

from experiments.world.cases import swap_cases
from vladva_kit.emoji_world.truth import is_true, words_of


@pytest.mark.parametrize("kind", ["object", "color", "size", "relation"])
def test_swap_captions_use_the_same_words_and_are_true_of_their_own_scene_only(kind):
    generator = swap_cases(random.Random(1), kind)
    for case in (next(generator) for _ in range(20)):
        first, second = case.captions
        assert first != second and sorted(words_of(first)) == sorted(words_of(second))
        for scene, own, other in zip(case.scenes, case.captions, case.captions[::-1], strict=True):
            assert is_true(own, scene) and not is_true(other, scene)
