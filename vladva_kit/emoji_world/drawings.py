"""The artists' drawings: one sprite of a noun in a style, recolored on request."""

from colorsys import rgb_to_hsv
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from vladva_kit.emoji_world.nouns import COLORS, NOUNS, STYLES

_SHEET = Path(__file__).parent / "sprites" / "sprites.webp"
_ROW = {noun.word: row for row, noun in enumerate(NOUNS)}
_ALIKE = 20.0  # degrees of hue within which a color can be taken for a drawing's own color


@lru_cache(maxsize=1)
def _sheet() -> Image.Image:
    sheet = Image.open(_SHEET).convert("RGBA")
    if sheet.width * len(NOUNS) != sheet.height * len(STYLES):
        raise ValueError(
            f"{_SHEET.name} is {sheet.width}×{sheet.height}, not {len(STYLES)} styles by {len(NOUNS)} nouns: "
            "remake it with experiments.pretraining.make_sprites"
        )
    return sheet


@cache
def drawing(noun: str, style: int, color: str | None = None) -> Image.Image:
    """The sprite of a noun, 64×64 RGBA, in its own colors or all in one color.

        drawing("dog", style=0)               # as Noto draws it
        drawing("dog", style=4, color="blue")  # a blue dog, as Twemoji draws it

    Raises KeyError for an unknown noun or color. A noun that the artist did not draw (`drawn_in`) gives an empty sprite.
    """
    cell = _sheet().width // len(STYLES)
    left, top = cell * style, cell * _ROW[noun]
    sprite = _sheet().crop((left, top, left + cell, top + cell))
    return sprite if color is None else _tinted(sprite, COLORS[color])


@cache
def drawn_in(style: int) -> tuple[str, ...]:
    """The nouns that a style has a drawing of, in order: all in those that samples are drawn in."""
    return tuple(noun.word for noun in NOUNS if drawing(noun.word, style).getbbox())


def _tinted(sprite: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """Keeps light and shade, replaces hue: dark lines stay dark, the drawing's mid-tone becomes the color."""
    pixels = np.asarray(sprite, dtype=np.float32)
    light = pixels[..., :3] @ np.float32([0.299, 0.587, 0.114])
    inside = pixels[..., 3] > 128
    low, high = np.percentile(light[inside], [4, 96])
    shade = 0.45 + 0.70 * np.clip(1 - (high - light) / max(high - low, 90.0), 0, 1)  # a flat drawing stays bright
    rgb = np.float32(color) * np.minimum(shade, 1)[..., None]
    rgb += (255 - rgb) * np.clip(shade - 1, 0, 1)[..., None] * 2  # the brightest parts go towards white
    return Image.fromarray(np.concatenate([np.clip(rgb, 0, 255), pixels[..., 3:]], -1).astype(np.uint8), "RGBA")


@cache
def native_colors(noun: str) -> frozenset[str]:
    """The colors that some artist's drawing of the noun has of itself, so that "a red apple" is never asked for.

    native_colors("apple")   # frozenset({"red", ...})
    """
    alike = set()
    for style in range(len(STYLES)):
        if noun not in drawn_in(style):
            continue
        hue, saturation, inside = _hues(drawing(noun, style))
        for color, color in COLORS.items():
            apart = np.abs((hue - 360 * rgb_to_hsv(*(part / 255 for part in color))[0] + 180) % 360 - 180)
            if ((apart < _ALIKE) & (saturation > 0.3))[inside].mean() > 0.4:
                alike.add(color)
    return frozenset(alike)


def _hues(sprite: Image.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in degrees, saturation 0–1, and where the drawing is."""
    hsv = np.asarray(sprite.convert("RGB").convert("HSV"), dtype=np.float32)
    return hsv[..., 0] * 360 / 255, hsv[..., 1] / 255, np.asarray(sprite)[..., 3] > 128
