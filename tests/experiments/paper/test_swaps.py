import random
import re

from experiments.paper.swaps import swapped_captions
from vladva_kit.emoji_world.captions import short_caption
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.truth import caption_facts, is_true


def test_nouns_colors_and_relations_are_exchanged():
    scene = Scene((Thing("dog", color="red"), Thing("cat", color="blue")), layout="column")
    assert set(swapped_captions("a red dog above a blue cat", scene)) == {
        "a red dog below a blue cat",
        "a red cat above a blue dog",
        "a blue dog above a red cat",
    }


def test_articles_and_plurals_agree_with_the_new_words():
    scene = Scene((Thing("elephant"), Thing("duck", count=2)))
    assert "a duck to the left of two elephants" in swapped_captions("an elephant to the left of two ducks", scene)


def test_a_caption_of_one_thing_has_no_swaps():
    assert swapped_captions("a dog on grass", Scene((Thing("dog"),))) == []


def test_swaps_parse_are_false_and_keep_nearly_all_words():
    rng, n_swaps = random.Random(0), 0
    for _ in range(150):
        scene = sample_scene(rng)
        caption = short_caption(scene, rng)
        for text in swapped_captions(caption, scene):
            n_swaps += 1
            assert caption_facts(text) and not is_true(text, scene) and text != caption
            # "in front of" has two words more than "behind".
            assert len(re.findall(r"\w+", text)) - len(re.findall(r"\w+", caption)) in (-2, 0, 2)
    assert n_swaps > 100
