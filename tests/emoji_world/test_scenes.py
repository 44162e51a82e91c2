import json
import random

import pytest

from vladva_kit.emoji_world.drawings import drawn_in, native_colors
from vladva_kit.emoji_world.nouns import NOUNS, SEEN_STYLES, SIZES, STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import LAYOUTS, Scene, Thing, fits, sample_scene, swapped

PAIR = Scene((Thing("dog", color="blue", size="big"), Thing("cat", color="red")), "row", "grass")


def many(n=300, seed=0, **options):
    rng = random.Random(seed)
    return [sample_scene(rng, **options) for _ in range(n)]


def test_the_same_seed_gives_the_same_scenes_and_another_seed_others():
    assert many(20) == many(20)
    assert many(20) != many(20, seed=1)


def test_as_many_things_as_asked_for():
    for n in (1, 2, 3):
        assert {len(scene.things) for scene in many(30, n_things=n)} == {n}
    assert {len(scene.things) for scene in many(60)} == {1, 2, 3}


@pytest.mark.parametrize("n_things", [0, 4, -1])
def test_a_number_of_things_that_no_scene_holds_is_refused(n_things):
    with pytest.raises(ValueError, match=f"n_things={n_things}.*1, 2 or 3"):
        sample_scene(random.Random(0), n_things)


def test_the_unseen_style_is_never_drawn_unless_asked_for():
    assert {scene.style for scene in many()} == set(SEEN_STYLES)
    assert {scene.style for scene in many(20, styles=(UNSEEN_STYLE,))} == {UNSEEN_STYLE}


def test_a_scene_holds_only_what_its_artist_drew():
    style = STYLES.index("streamline-emojis")
    nouns = {thing.noun for scene in many(200, styles=(style,)) for thing in scene.things}
    assert nouns <= set(drawn_in(style)) and len(nouns) > 40


def test_no_sampled_scene_can_be_confused_or_overflows():
    for scene in many():
        nouns = [thing.noun for thing in scene.things]
        assert len(set(nouns)) == len(nouns)
        for thing in scene.things:
            assert 1 <= thing.count <= 3 and thing.count * SIZES[thing.size] <= 0.85
            assert thing.color not in native_colors(thing.noun)
        if scene.layout == "stack":
            assert len(scene.things) == 2 and [thing.count for thing in scene.things] == [1, 1]
            assert scene.things[1].size == "big"  # what is behind is not hidden
        else:
            assert sum(SIZES[thing.size] for thing in scene.things) < 1


def test_every_noun_layout_and_ground_turns_up():
    scenes = many(700)
    assert {thing.noun for scene in scenes for thing in scene.things} == {noun.word for noun in NOUNS}
    assert {scene.layout for scene in scenes} == set(LAYOUTS)
    assert len({scene.ground for scene in scenes}) == 6


def test_tinted_zero_and_one_mean_never_and_always():
    assert all(thing.color is None for scene in many(40, colored=0.0) for thing in scene.things)
    assert all(thing.color for scene in many(40, colored=1.0) for thing in scene.things)


@pytest.mark.parametrize(
    "scene",
    [
        Scene((Thing("dog"), Thing("dog", color="blue"))),  # which dog?
        Scene((Thing("dog", count=3, size="big"),)),  # too wide
        Scene((Thing("heart", color="red"),)),  # it is red anyway
        Scene((Thing("dog"), Thing("cat")), layout="stack"),  # a small cat would be hidden
        Scene((Thing("dog", count=2), Thing("cat", size="big")), layout="stack"),
        Scene((Thing("dog", size="big"), Thing("cat", size="big"), Thing("elephant"))),  # no room
    ],
)
def test_scenes_that_confuse_or_overflow_do_not_fit(scene):
    assert not fits(scene)


def test_a_scene_survives_json():
    for scene in many(20):
        assert Scene.from_dict(json.loads(json.dumps(scene.as_dict()))) == scene


def test_relations_run_from_first_to_last_and_back():
    wanted = {"row": ("to the left of", "to the right of"), "column": ("above", "below")}
    wanted["stack"] = ("in front of", "behind")
    for layout, (there, back) in wanted.items():
        scene = Scene(PAIR.things, layout)
        assert (scene.relation(0, 1), scene.relation(1, 0)) == (there, back)


def test_swapping_exchanges_the_named_fields_only():
    dog, cat = swapped(PAIR, "color").things
    assert (dog, cat) == (Thing("dog", color="red", size="big"), Thing("cat", color="blue"))
    dog, cat = swapped(PAIR, "noun").things
    assert (dog, cat) == (Thing("cat", color="blue", size="big"), Thing("dog", color="red"))


def test_swapping_nothing_by_name_exchanges_the_places_and_twice_is_nothing():
    three = Scene((*PAIR.things, Thing("elephant")), "column", "sand", 2, 5)
    assert swapped(three) == Scene((three.things[1], three.things[0], three.things[2]), "column", "sand", 2, 5)
    assert swapped(swapped(three, "size", "color"), "size", "color") == three
