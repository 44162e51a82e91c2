"""The parts of the emoji world that the playground draws in the browser: sprites, grounds, colors and sizes."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Any

from PIL import Image

from vladva_kit.emoji_world.drawings import drawing, native_colors
from vladva_kit.emoji_world.nouns import COLORS, GROUNDS, SEEN_STYLES, SIZES, STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import WORDS, Scene
from vladva_kit.plots.style import image_uri

SIDE = 288  # pixels of a scene; image encoders resize it


@cache
def world_state() -> dict[str, Any]:
    """Return what the page needs to draw scenes, as JSON values: `world_state()["sizes"]["big"] == 0.42`.

    "styles" has the name and a row of sprites of the held-out style and of one that training uses; "native" the colors
    that a noun has in some style, which no caption mentions.
    """
    return {
        "side": SIDE,
        "nouns": list(WORDS),
        "colors": {name: list(rgb) for name, rgb in COLORS.items()},
        "native": {noun: sorted(native_colors(noun)) for noun in WORDS},
        "sizes": SIZES,
        "grounds": {ground: image_uri(render(Scene((), "row", ground), SIDE), SIDE) for ground in GROUNDS},
        "styles": [
            [f"{STYLES[UNSEEN_STYLE]} (unseen)", _sprites_uri(UNSEEN_STYLE)],
            [f"{STYLES[SEEN_STYLES[0]]} (trained on)", _sprites_uri(SEEN_STYLES[0])],
        ],
    }


def _sprites_uri(style: int) -> str:
    """Encode all sprites of a style, next to each other in the order of the nouns."""
    sprites = [drawing(noun, style) for noun in WORDS]
    side = sprites[0].width
    row = Image.new("RGBA", (side * len(sprites), side))
    for number, sprite in enumerate(sprites):
        row.paste(sprite, (side * number, 0))
    buffer = io.BytesIO()
    row.save(buffer, "WEBP", lossless=True)  # models see what the browser draws
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
