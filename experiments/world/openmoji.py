"""Draw data_samples/openmoji: Winoground cases and test pairs in OpenMoji's drawings, a second held-out style.

    npm install @iconify-json/openmoji
    pip install cairosvg
    python -m experiments.world.openmoji node_modules data_samples/openmoji

No model was trained on OpenMoji, and nothing was chosen by a look at it or by a score on it: all nouns are used, and
their icons are found by the names that the other sets use. Scenes are sampled as for the unseen style, with another
random seed. The images are adaptations of OpenMoji's drawings, so they have its license, CC BY-SA 4.0.
"""

from __future__ import annotations

import io
import json
import random
import sys
from functools import cache
from pathlib import Path

from PIL import Image

from experiments.pretraining.make_sprites import CELL, icon_svg, trimmed_square
from experiments.world.miniatures import Draw
from experiments.world.samples import WINOGROUND_KINDS, write_test_pairs, write_winoground
from vladva_kit.emoji_world.drawings import main_colors, recolored
from vladva_kit.emoji_world.nouns import NOUNS, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import Scene

N_PAIRS = 500
SEED = 0


def write_openmoji(folder: Path, draw: Draw, kinds: dict[str, int] = WINOGROUND_KINDS, n_pairs: int = N_PAIRS) -> None:
    """Write examples.jsonl and images/ of Winoground, and the split `test` of pairs.

    write_openmoji(Path("data_samples/openmoji"), openmoji_drawings(Path("node_modules")))
    """

    def keep(scene: Scene) -> bool:
        """Leave out a color that OpenMoji gives a thing anyway, as in "a red apple"."""
        colored = (thing for thing in scene.things if thing.color)
        return all(thing.color not in main_colors(draw(thing.noun, 0, None)) for thing in colored)

    # of the styles, UNSEEN_STYLE has all nouns
    write_winoground(folder, random.Random(f"{SEED} winoground openmoji"), kinds, (UNSEEN_STYLE,), keep, draw)
    write_test_pairs(folder / "test", random.Random(f"{SEED} pairs openmoji"), n_pairs, (UNSEEN_STYLE,), keep, draw)


def openmoji_drawings(node_modules: Path) -> Draw:
    """Return a function like `drawings.drawing` that draws any noun as OpenMoji does, whatever the style number.

    openmoji_drawings(Path("node_modules"))("dog", 0, "blue")
    """
    icons = json.loads((node_modules / "@iconify-json" / "openmoji" / "icons.json").read_text())
    names = {noun.word: noun.icon for noun in NOUNS}

    @cache
    def draw(noun: str, style: int, color: str | None) -> Image.Image:
        import cairosvg

        png = cairosvg.svg2png(icon_svg(icons, names[noun]).encode(), output_width=4 * CELL, output_height=4 * CELL)
        sprite = trimmed_square(Image.open(io.BytesIO(png)).convert("RGBA"))
        return sprite if color is None else recolored(sprite, color)

    return draw


if __name__ == "__main__":
    write_openmoji(Path(sys.argv[2]), openmoji_drawings(Path(sys.argv[1])))
