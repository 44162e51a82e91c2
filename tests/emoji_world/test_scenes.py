import json
import random

import pytest

from vladva_kit.emoji_world.drawings import native_colors, nouns_in_style
from vladva_kit.emoji_world.nouns import NOUNS, SEEN_STYLES, SIZES, STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import (
    LAYOUTS,
    Scene,
    Thing,
    absent_nouns,
    fits,
    sample_scene,
    swapped,
    validation_scenes,
)

PAIR = Scene((Thing("dog", color="blue", size="big"), Thing("cat", color="red")), "row", "grass")


def many(n=300, seed=0, **options):
    rng = random.Random(seed)
    return [sample_scene(rng, **options) for _ in range(n)]


def test_the_seed_determines_the_scenes():
    assert many(20) == many(20)
    assert many(20) != many(20, seed=1)


def test_n_things_sets_the_number_of_things():
    for n in (1, 2, 3):
        assert {len(scene.things) for scene in many(30, n_things=n)} == {n}
    assert {len(scene.things) for scene in many(60)} == {1, 2, 3}


@pytest.mark.parametrize("n_things", [0, 4, -1])
def test_an_invalid_number_of_things_is_refused(n_things):
    with pytest.raises(ValueError, match=f"n_things={n_things}.*1, 2 or 3"):
        sample_scene(random.Random(0), n_things)


def test_the_unseen_style_is_sampled_only_on_request():
    assert {scene.style for scene in many()} == set(SEEN_STYLES)
    assert {scene.style for scene in many(20, styles=(UNSEEN_STYLE,))} == {UNSEEN_STYLE}


def test_a_scene_has_only_nouns_of_its_style():
    style = STYLES.index("streamline-emojis")
    nouns = {thing.noun for scene in many(200, styles=(style,)) for thing in scene.things}
    assert nouns <= set(nouns_in_style(style)) and len(nouns) > 40


def test_sampled_scenes_are_unambiguous_and_fit():
    for scene in many():
        nouns = [thing.noun for thing in scene.things]
        assert len(set(nouns)) == len(nouns)
        for thing in scene.things:
            assert 1 <= thing.count <= 3 and thing.count * SIZES[thing.size] <= 0.85
            assert thing.color not in native_colors(thing.noun)
        if scene.layout == "stack":
            assert len(scene.things) == 2 and [thing.count for thing in scene.things] == [1, 1]
            assert scene.things[1].size == "big"  # so that it is not hidden
        else:
            assert sum(SIZES[thing.size] for thing in scene.things) < 1


def test_every_noun_layout_and_ground_is_sampled():
    scenes = many(700)
    assert {thing.noun for scene in scenes for thing in scene.things} == {noun.word for noun in NOUNS}
    assert {scene.layout for scene in scenes} == set(LAYOUTS)
    assert len({scene.ground for scene in scenes}) == 6


def test_colored_is_a_probability():
    assert all(thing.color is None for scene in many(40, colored=0.0) for thing in scene.things)
    assert all(thing.color for scene in many(40, colored=1.0) for thing in scene.things)


@pytest.mark.parametrize(
    "scene",
    [
        Scene((Thing("dog"), Thing("dog", color="blue"))),  # two kinds of dogs
        Scene((Thing("dog", count=3, size="big"),)),  # too wide
        Scene((Thing("heart", color="red"),)),  # red is its native color
        Scene((Thing("dog"), Thing("cat")), layout="stack"),  # a small cat would be hidden
        Scene((Thing("dog", count=2), Thing("cat", size="big")), layout="stack"),
        Scene((Thing("dog", size="big"), Thing("cat", size="big"), Thing("elephant"))),  # no room
    ],
)
def test_ambiguous_or_overflowing_scenes_do_not_fit(scene):
    assert not fits(scene)


def test_scenes_round_trip_through_json():
    for scene in many(20):
        assert Scene.from_dict(json.loads(json.dumps(scene.as_dict()))) == scene


def test_relations_depend_on_the_order_of_the_things():
    relations = {"row": ("to the left of", "to the right of"), "column": ("above", "below")}
    relations["stack"] = ("in front of", "behind")
    for layout, expected in relations.items():
        scene = Scene(PAIR.things, layout)
        assert (scene.relation(0, 1), scene.relation(1, 0)) == expected


def test_swapped_exchanges_only_the_given_fields():
    dog, cat = swapped(PAIR, "color").things
    assert (dog, cat) == (Thing("dog", color="red", size="big"), Thing("cat", color="blue"))
    dog, cat = swapped(PAIR, "noun").things
    assert (dog, cat) == (Thing("cat", color="blue", size="big"), Thing("dog", color="red"))


def test_swapped_without_fields_exchanges_positions_and_is_its_own_inverse():
    three = Scene((*PAIR.things, Thing("elephant")), "column", "sand", 2, 5)
    assert swapped(three) == Scene((three.things[1], three.things[0], three.things[2]), "column", "sand", 2, 5)
    assert swapped(swapped(three, "size", "color"), "size", "color") == three


def test_absent_nouns_are_all_others():
    assert set(absent_nouns(PAIR)) == {noun.word for noun in NOUNS} - {"dog", "cat"}


def test_validation_scenes_use_the_styles_of_their_group():
    assert {scene.style for scene in validation_scenes("unseen", 20)} == {UNSEEN_STYLE}
    assert {scene.style for scene in validation_scenes("seen", 40)} == set(SEEN_STYLES)
    with pytest.raises(ValueError, match="'other': use seen or unseen"):
        validation_scenes("other", 1)
