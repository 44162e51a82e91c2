"""Swapped captions: of the same words, understood, and false."""

import random
import re

from vladva_kit.emoji_world.captions import short_caption
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.swaps import swapped_captions
from vladva_kit.emoji_world.truth import facts, is_true


def test_nouns_tints_and_relations_are_exchanged():
    scene = Scene((Thing("dog", color="red"), Thing("cat", color="blue")), layout="column")
    assert set(swapped_captions("a red dog above a blue cat", scene)) == {
        "a red dog below a blue cat",
        "a red cat above a blue dog",
        "a blue dog above a red cat",
    }


def test_articles_and_numbers_follow_the_new_words():
    scene = Scene((Thing("elephant"), Thing("duck", count=2)))
    assert "a duck to the left of two elephants" in swapped_captions("an elephant to the left of two ducks", scene)


def test_one_thing_gives_nothing():
    assert swapped_captions("a dog on grass", Scene((Thing("dog"),))) == []


def test_all_are_understood_and_false_and_hold_nearly_the_same_words():
    rng, made = random.Random(0), 0
    for _ in range(300):
        scene = sample_scene(rng)
        caption = short_caption(scene, rng)
        for text in swapped_captions(caption, scene):
            made += 1
            assert facts(text) and not is_true(text, scene) and text != caption
            assert len(re.findall(r"\w+", text)) - len(re.findall(r"\w+", caption)) in (-2, 0, 2)  # behind, in front of
    assert made > 200
