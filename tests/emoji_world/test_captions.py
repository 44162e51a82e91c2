import random

import pytest

from vladva_kit.emoji_world.captions import article, long_caption, name, pair_caption, phrase, short_caption
from vladva_kit.emoji_world.nouns import NOUNS
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene, swapped
from vladva_kit.emoji_world.truth import facts, is_true
from vladva_kit.emoji_world.words import UNK, encode


@pytest.fixture(scope="module")
def many():
    rng = random.Random(11)
    return [sample_scene(rng) for _ in range(400)]


def test_short_captions_have_fewer_than_thirty_tokens_all_known(many):
    rng = random.Random(0)
    for scene in many:
        ids = encode(short_caption(scene, rng))
        assert 0 < len(ids) < 30 and UNK not in ids


def test_long_captions_have_thirty_to_five_hundred_tokens_all_known(many):
    rng = random.Random(0)
    for scene in many:
        ids = encode(long_caption(scene, rng))
        assert 30 <= len(ids) <= 500 and UNK not in ids


def test_every_caption_is_true_of_its_scene(many):
    rng = random.Random(1)
    for scene in many:
        for caption in (short_caption(scene, rng), long_caption(scene, rng)):
            assert is_true(caption, scene), (caption, scene)


def test_a_caption_that_tells_the_order_is_false_when_the_things_change_places(many):
    rng = random.Random(2)
    for scene in many:
        if len(scene.things) > 1:
            assert not is_true(long_caption(scene, rng), swapped(scene))
            assert not is_true(pair_caption(scene, *rng.choice([(0, 1), (1, 0)])), swapped(scene))


@pytest.mark.parametrize("field", ["noun", "color", "size", "count"])
def test_a_long_caption_is_false_when_a_field_is_exchanged(many, field):
    rng, tried = random.Random(3), 0
    for scene in many:
        if len(scene.things) > 1 and getattr(scene.things[0], field) != getattr(scene.things[1], field):
            tried += 1
            assert not is_true(long_caption(scene, rng), swapped(scene, field))
    assert tried > 40


def test_both_wordings_of_a_relation_state_the_same_facts(many):
    for scene in many:
        if len(scene.things) > 1:
            for sized in (False, True):
                there, back = pair_caption(scene, 0, 1, sized), pair_caption(scene, 1, 0, sized)
                assert there != back and facts(there) == facts(back)


def test_a_long_caption_says_everything_about_each_thing(many):
    for scene in many[:100]:
        stated = facts(long_caption(scene, random.Random(4)))
        for thing in scene.things:
            assert ("size", thing.noun, thing.size) in stated
            assert ("count", thing.noun, ("zero", "one", "two", "three")[thing.count]) in stated
            assert thing.color is None or ("color", thing.noun, thing.color) in stated
        assert ("ground", scene.ground) in stated


def test_a_scene_is_worded_in_many_ways():
    scene = Scene((Thing("dog", color="blue"), Thing("cat")))
    rng = random.Random(5)
    assert len({short_caption(scene, rng) for _ in range(200)}) >= 15
    assert len({long_caption(scene, rng) for _ in range(50)}) >= 4


def test_phrases_read_as_a_person_would_write_them():
    assert phrase(Thing("dog", color="blue", size="big")) == "a big blue dog"
    assert phrase(Thing("duck", 2)) == "two small ducks"
    assert phrase(Thing("mouse", 3, "orange"), sized=False) == "three orange mice"
    assert phrase(Thing("dog", color="orange"), sized=False) == "an orange dog"
    assert (name(Thing("cherry", 2)), name(Thing("cherry"))) == ("cherries", "cherry")


def test_an_stands_before_a_vowel_and_a_before_the_rest():
    an = {noun.word for noun in NOUNS if article(noun.word) == "an"}
    assert an == {"elephant", "apple", "eggplant", "anchor", "umbrella"}
    assert article("unicorn") == "a"


def test_a_scene_in_words():
    scene = Scene((Thing("dog", color="blue", size="big"), Thing("cat")))
    assert pair_caption(scene, 1, 0) == "a cat to the right of a blue dog"
    assert pair_caption(scene, 0, 1, sized=True) == "a big blue dog to the left of a small cat"
