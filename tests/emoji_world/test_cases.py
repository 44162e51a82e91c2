import random

import pytest

from vladva_kit.emoji_world.cases import sugarcrepe_captions
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.truth import is_true, words_of

CATEGORIES = ["add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att"]


@pytest.mark.parametrize("category", CATEGORIES)
def test_negative_captions_are_false_and_differ_by_their_category(category):
    rng, cases = random.Random(2), []
    while len(cases) < 20:
        scene = sample_scene(rng, 2)
        captions = sugarcrepe_captions(category, scene, rng)
        if captions:
            cases.append((scene, *captions))
    for scene, true, false in cases:
        assert is_true(true, scene) and not is_true(false, scene)
        if category.startswith("add"):
            assert len(words_of(false)) > len(words_of(true))
        if category.startswith("swap"):
            assert len(set(words_of(true)) ^ set(words_of(false))) <= 4  # "a"/"an" and plural forms may change


@pytest.mark.parametrize(
    ("category", "things"),
    [
        ("add_att", (Thing("dog", color="blue"), Thing("cat", color="pink"))),  # no thing left to color
        ("swap_obj", (Thing("dog", count=2), Thing("cat"))),  # the nouns would not agree in number
        ("swap_att", (Thing("dog"), Thing("cat"))),  # nothing to exchange
    ],
)
def test_a_category_that_does_not_apply_gives_none(category, things):
    rng = random.Random(0)
    assert all(sugarcrepe_captions(category, Scene(things), rng) is None for _ in range(10))
