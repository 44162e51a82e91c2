"""Bent drawings: still the same thing, still the same color, never the same pixels."""

import random
from colorsys import rgb_to_hsv

import numpy as np
import pytest

from vladva_kit.emoji_world.augment import between_artists, wobbled
from vladva_kit.emoji_world.drawings import drawing, drawn_in
from vladva_kit.emoji_world.nouns import COLORS, STYLES


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


@pytest.mark.parametrize("color", COLORS)
def test_a_tinted_drawing_stays_within_a_few_degrees_of_its_tints_hue(color):
    wanted = rgb_to_hsv(*(part / 255 for part in COLORS[color]))[0] * 360
    for seed in range(20):
        pixels = np.asarray(wobbled(drawing("whale", 2, color), random.Random(seed)), float)
        mean = pixels[pixels[..., 3] > 200, :3].mean(0) / 255
        apart = abs((rgb_to_hsv(*mean)[0] * 360 - wanted + 180) % 360 - 180)
        assert apart < 20  # the hue is turned by up to 15 degrees


def test_a_drawing_between_two_artists_is_neither_nor_and_keeps_its_tint():
    pure = {np.asarray(drawing("pig", style, "green")).tobytes() for style in range(len(STYLES))}
    drawn = [between_artists("pig", 0, "green", random.Random(seed)) for seed in range(40)]
    mixed = [sprite for sprite in drawn if np.asarray(sprite).tobytes() not in pure]
    assert 5 < len(mixed) < 25  # three in ten; some meet the same artist again
    wanted = rgb_to_hsv(*(part / 255 for part in COLORS["green"]))[0] * 360
    for sprite in mixed:
        pixels = np.asarray(sprite, float)
        mean = pixels[pixels[..., 3] > 200, :3].mean(0) / 255
        assert abs(rgb_to_hsv(*mean)[0] * 360 - wanted) < 20


def test_what_an_artist_did_not_draw_is_never_half_drawn():
    assert "lion" not in drawn_in(STYLES.index("fxemoji"))
    for seed in range(60):
        alpha = np.asarray(between_artists("lion", 0, None, random.Random(seed)))[..., 3]
        assert alpha.max() == 255
