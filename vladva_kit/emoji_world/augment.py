"""Drawings bent out of shape, for training alone: a thing must not hang on one artist's exact lines and hues."""

import random

from PIL import Image, ImageFilter

from vladva_kit.emoji_world.drawings import drawing, drawn_in
from vladva_kit.emoji_world.nouns import TRAINING_STYLES


def between_artists(noun: str, style: int, color: str | None, rng: random.Random) -> Image.Image:
    """A drawing of a noun, at times half-way to another artist's: so a few artists become many."""
    sprite = drawing(noun, style, color)
    if rng.random() < 0.7:
        return sprite
    other = drawing(noun, rng.choice([one for one in TRAINING_STYLES if noun in drawn_in(one)]), color)
    return Image.blend(sprite.convert("RGBa"), other.convert("RGBa"), rng.uniform(0.2, 0.5)).convert("RGBA")


def wobbled(sprite: Image.Image, rng: random.Random) -> Image.Image:
    """A drawing sheared, squeezed, turned, lightened or darkened, its hue a little off, sometimes blurred.

    wobbled(drawing("dog", style=0), random.Random(0))    # the same size, RGBA
    """
    sprite = _bent(sprite, rng)
    if rng.random() < 0.7:
        sprite = _repainted(sprite, rng)
    if rng.random() < 0.25:
        sprite = sprite.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.6)))
    return sprite


def _bent(sprite: Image.Image, rng: random.Random) -> Image.Image:
    """An affine map about the middle: scales 0.8–1.05 across and down, shear up to 0.25 either way."""
    across, down = (1 / rng.uniform(0.8, 1.05) for _ in range(2))
    shear_x, shear_y = (rng.uniform(-0.25, 0.25) for _ in range(2))
    middle = sprite.width / 2
    matrix = (
        across, shear_x, middle * (1 - across - shear_x),
        shear_y, down, middle * (1 - down - shear_y),
    )  # fmt: skip
    return sprite.transform(sprite.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _repainted(sprite: Image.Image, rng: random.Random) -> Image.Image:
    """Other light, paler or stronger colors, hues up to 15 degrees off: a red thing stays red."""
    turn, strength, gamma = rng.uniform(-10, 10), rng.uniform(0.6, 1.25), rng.uniform(0.65, 1.5)
    hue, saturation, value = sprite.convert("RGB").convert("HSV").split()
    hue = hue.point([int(level + turn) % 256 for level in range(256)])
    saturation = saturation.point([min(255, int(level * strength)) for level in range(256)])
    value = value.point([round(255 * (level / 255) ** gamma) for level in range(256)])
    painted = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    painted.putalpha(sprite.getchannel("A"))
    return painted
