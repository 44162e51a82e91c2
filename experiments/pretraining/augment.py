"""Augment the sprites in training, so that recognition does not depend on one style's exact lines and hues."""

import random

from PIL import Image, ImageFilter

from vladva_kit.emoji_world.drawings import drawing, nouns_in_style

TRAINING_STYLES = (0, 1, 2, 3, 5, 6, 7, 8)  # 5 and 6 are black and white: shape is the only cue


def augmented_drawing(noun: str, style: int, color: str | None, rng: random.Random) -> Image.Image:
    """Draw a sprite with style mixing and augmentation.

    render(scene, draw=partial(augmented_drawing, rng=random.Random(0)))
    """
    return augment(mix_styles(noun, style, color, rng), rng)


def mix_styles(noun: str, style: int, color: str | None, rng: random.Random) -> Image.Image:
    """Return the sprite of a noun, in 30 % of cases blended with that of another training style."""
    sprite = drawing(noun, style, color)
    if rng.random() < 0.7:
        return sprite
    other = drawing(noun, rng.choice([one for one in TRAINING_STYLES if noun in nouns_in_style(one)]), color)
    return Image.blend(sprite.convert("RGBa"), other.convert("RGBa"), rng.uniform(0.2, 0.5)).convert("RGBA")


def augment(sprite: Image.Image, rng: random.Random) -> Image.Image:
    """Apply a random affine map, and sometimes color jitter and blur.

    augment(drawing("dog", style=0), random.Random(0))    # the same size, RGBA
    """
    sprite = _warp(sprite, rng)
    if rng.random() < 0.7:
        sprite = _jitter_colors(sprite, rng)
    if rng.random() < 0.25:
        sprite = sprite.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.6)))
    return sprite


def _warp(sprite: Image.Image, rng: random.Random) -> Image.Image:
    """Scale by 0.8 to 1.05 and shear by up to 0.25 along each axis, around the center."""
    scale_x, scale_y = (1 / rng.uniform(0.8, 1.05) for _ in range(2))
    shear_x, shear_y = (rng.uniform(-0.25, 0.25) for _ in range(2))
    center = sprite.width / 2
    matrix = (
        scale_x, shear_x, center * (1 - scale_x - shear_x),
        shear_y, scale_y, center * (1 - scale_y - shear_y),
    )  # fmt: skip
    return sprite.transform(sprite.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _jitter_colors(sprite: Image.Image, rng: random.Random) -> Image.Image:
    """Change brightness and saturation, and turn hues by up to 15 degrees, so that a red thing stays red."""
    turn, strength, gamma = rng.uniform(-10, 10), rng.uniform(0.6, 1.25), rng.uniform(0.65, 1.5)
    hue, saturation, value = sprite.convert("RGB").convert("HSV").split()
    hue = hue.point([int(level + turn) % 256 for level in range(256)])
    saturation = saturation.point([min(255, int(level * strength)) for level in range(256)])
    value = value.point([round(255 * (level / 255) ** gamma) for level in range(256)])
    jittered = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    jittered.putalpha(sprite.getchannel("A"))
    return jittered
