"""Augmented sprites keep their shape and color."""

import random
from colorsys import rgb_to_hsv

import numpy as np
import pytest

from experiments.pretraining.augment import TRAINING_STYLES, augment, augmented_drawing, mix_styles
from vladva_kit.emoji_world.drawings import drawing, nouns_in_style
from vladva_kit.emoji_world.nouns import COLORS, SEEN_STYLES, STYLES, UNSEEN_STYLE


def test_augmentation_keeps_the_size_and_most_of_the_area():
    sprite = drawing("dog", 0)
    for seed in range(20):
        augmented = augment(sprite, random.Random(seed))
        assert (augmented.size, augmented.mode) == (sprite.size, "RGBA")
        area, before = (np.asarray(image)[..., 3].sum() for image in (augmented, sprite))
        assert 0.4 < area / before < 1.3


def test_the_random_state_determines_the_augmentation():
    sprite = drawing("cat", 1)
    one, same, other = (np.asarray(augment(sprite, random.Random(seed))) for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize("color", COLORS)
def test_a_recolored_drawing_stays_close_to_its_hue(color):
    expected = rgb_to_hsv(*(channel / 255 for channel in COLORS[color]))[0] * 360
    for seed in range(20):
        pixels = np.asarray(augment(drawing("whale", 2, color), random.Random(seed)), float)
        mean = pixels[pixels[..., 3] > 200, :3].mean(0) / 255
        distance = abs((rgb_to_hsv(*mean)[0] * 360 - expected + 180) % 360 - 180)
        assert distance < 20  # the hue turns by up to 15 degrees


def test_mixing_styles_gives_new_drawings_of_the_same_color():
    pure = {np.asarray(drawing("pig", style, "green")).tobytes() for style in range(len(STYLES))}
    drawn = [mix_styles("pig", 0, "green", random.Random(seed)) for seed in range(40)]
    mixed = [sprite for sprite in drawn if np.asarray(sprite).tobytes() not in pure]
    assert 5 < len(mixed) < 25  # three in ten, some of them with the same style
    expected = rgb_to_hsv(*(channel / 255 for channel in COLORS["green"]))[0] * 360
    for sprite in mixed:
        pixels = np.asarray(sprite, float)
        mean = pixels[pixels[..., 3] > 200, :3].mean(0) / 255
        assert abs(rgb_to_hsv(*mean)[0] * 360 - expected) < 20


def test_missing_drawings_are_never_mixed_in():
    assert "lion" not in nouns_in_style(STYLES.index("fxemoji"))
    for seed in range(60):
        alpha = np.asarray(mix_styles("lion", 0, None, random.Random(seed)))[..., 3]
        assert alpha.max() == 255


def test_an_augmented_drawing_never_uses_the_unseen_style(monkeypatch):
    styles = set()

    def recorded(noun, style, color):
        styles.add(style)
        return drawing(noun, style, color)

    monkeypatch.setattr("experiments.pretraining.augment.drawing", recorded)
    for seed in range(100):
        augmented_drawing("pig", 0, None, random.Random(seed))
    assert styles == set(TRAINING_STYLES) and UNSEEN_STYLE not in styles


def test_training_uses_every_style_except_the_unseen_one():
    assert sorted([*TRAINING_STYLES, UNSEEN_STYLE]) == list(range(len(STYLES)))
    assert set(SEEN_STYLES) <= set(TRAINING_STYLES)
