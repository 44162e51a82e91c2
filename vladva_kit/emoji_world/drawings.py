"""The emoji drawings: one sprite per noun and style, recolored on request."""

from colorsys import rgb_to_hsv
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from vladva_kit.emoji_world.nouns import COLORS, NOUNS, STYLES

_SHEET = Path(__file__).parent / "sprites" / "sprites.webp"
_ROW = {noun.word: row for row, noun in enumerate(NOUNS)}
_MAX_HUE_DISTANCE = 20.0  # degrees within which a sprite's own hue counts as one of COLORS


@lru_cache(maxsize=1)
def _sheet() -> Image.Image:
    sheet = Image.open(_SHEET).convert("RGBA")
    if sheet.width * len(NOUNS) != sheet.height * len(STYLES):
        raise ValueError(
            f"{_SHEET.name} is {sheet.width}×{sheet.height}, not {len(STYLES)} styles by {len(NOUNS)} nouns: "
            "rebuild it with experiments.pretraining.make_sprites"
        )
    return sheet


@cache
def drawing(noun: str, style: int, color: str | None = None) -> Image.Image:
    """Return the sprite of a noun, 64×64 RGBA, in its native colors or recolored.

        drawing("dog", style=0)                # as Noto draws it
        drawing("dog", style=4, color="blue")  # a blue dog, as Twemoji draws it

    The sprite is empty if the style has no drawing of the noun (see `nouns_in_style`).
    Raises KeyError for an unknown noun or color.
    """
    cell = _sheet().width // len(STYLES)
    left, top = cell * style, cell * _ROW[noun]
    sprite = _sheet().crop((left, top, left + cell, top + cell))
    return sprite if color is None else recolored(sprite, color)


@cache
def nouns_in_style(style: int) -> tuple[str, ...]:
    """List the nouns that a style has a drawing of. SEEN_STYLES and UNSEEN_STYLE have all of them."""
    return tuple(noun.word for noun in NOUNS if drawing(noun.word, style).getbbox())


def recolored(sprite: Image.Image, color: str) -> Image.Image:
    """Replace an RGBA sprite's hue and keep its shading: dark lines stay dark, mid-tones take the color.

    recolored(drawing("dog", style=0), "blue")
    """
    pixels = np.asarray(sprite, dtype=np.float32)
    light = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    low, high = np.percentile(light[pixels[..., 3] > 128], [4, 96])
    contrast = max(high - low, 90.0)  # a lower bound, so that flat sprites stay bright
    shade = 0.45 + 0.70 * np.clip(1 - (high - light) / contrast, 0, 1)
    rgb = np.array(COLORS[color], np.float32) * np.minimum(shade, 1)[..., None]
    rgb += (255 - rgb) * np.clip(shade - 1, 0, 1)[..., None] * 2  # highlights fade to white
    return Image.fromarray(np.concatenate([np.clip(rgb, 0, 255), pixels[..., 3:]], -1).astype(np.uint8), "RGBA")


@cache
def native_colors(noun: str) -> frozenset[str]:
    """Return the colors that any style gives the noun by default, so that no caption says "a red apple".

    native_colors("apple")   # frozenset({"red", ...})
    """
    native = set()
    for style in range(len(STYLES)):
        if noun not in nouns_in_style(style):
            continue
        native |= main_colors(drawing(noun, style))
    return frozenset(native)


def main_colors(sprite: Image.Image) -> set[str]:
    """Return the colors that cover at least 40 % of an RGBA sprite: `main_colors(drawing("apple", 0))`."""
    hsv = np.asarray(sprite.convert("RGB").convert("HSV"), dtype=np.float32)
    hue, saturation, inside = hsv[..., 0] * 360 / 255, hsv[..., 1] / 255, np.asarray(sprite)[..., 3] > 128
    colors = set()
    for color, rgb in COLORS.items():
        target = 360 * rgb_to_hsv(*(channel / 255 for channel in rgb))[0]
        distance = np.abs((hue - target + 180) % 360 - 180)
        if ((distance < _MAX_HUE_DISTANCE) & (saturation > 0.3))[inside].mean() > 0.4:
            colors.add(color)
    return colors


def foreign_colors(noun: str) -> list[str]:
    """List the colors that the noun can be recolored in: those that no style gives it by default."""
    return [color for color in COLORS if color not in native_colors(noun)]
