"""Bent drawings: still the same thing, still the same tint, never the same pixels."""

import random

import numpy as np
import pytest

from vladva_kit.emoji_world.drawings import drawing
from vladva_kit.emoji_world.nouns import TINTS
from vladva_kit.emoji_world.wobble import wobbled


def test_a_bent_drawing_keeps_its_size_and_most_of_its_area():
    sprite = drawing("dog", 0)
    for seed in range(20):
        bent = wobbled(sprite, random.Random(seed))
        assert (bent.size, bent.mode) == (sprite.size, "RGBA")
        area, before = (np.asarray(image)[..., 3].sum() for image in (bent, sprite))
        assert 0.4 < area / before < 1.3


def test_the_same_chance_bends_the_same_and_another_otherwise():
    sprite = drawing("cat", 1)
    one, same, other = (np.asarray(wobbled(sprite, random.Random(seed))) for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize("tint", TINTS)
def test_a_tinted_drawing_stays_nearest_to_its_own_tint(tint):
    near = 0
    for seed in range(20):
        pixels = np.asarray(wobbled(drawing("whale", 2, tint), random.Random(seed)), float)
        inside = pixels[..., 3] > 200
        mean = pixels[inside, :3].mean(0)
        direction = {
            name: np.array(rgb) / np.linalg.norm(rgb) @ mean / np.linalg.norm(mean) for name, rgb in TINTS.items()
        }
        near += max(direction, key=direction.get) == tint
    assert near >= 17
