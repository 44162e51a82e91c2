"""What the playground draws scenes from is what the emoji world draws them from."""

import base64
import io
import json

import numpy as np
from PIL import Image

from vladva_kit.emoji_world.drawings import drawing, foreign_colors
from vladva_kit.emoji_world.nouns import SEEN_STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import WORDS
from vladva_kit.widgets.playground_world import world_state


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_sprites_are_in_the_order_of_the_nouns():
    world = json.loads(json.dumps(world_state()))
    assert world["nouns"] == list(WORDS)
    for (_, uri), style in zip(world["styles"], (UNSEEN_STYLE, SEEN_STYLES[0]), strict=True):
        row = decoded(uri)
        for noun in ("dog", "rocket", "heart"):
            at = 64 * WORDS.index(noun)
            shown, sprite = (
                np.asarray(one, dtype=float) for one in (row.crop((at, 0, at + 64, 64)), drawing(noun, style))
            )
            assert np.array_equal(shown[..., 3], sprite[..., 3])
            assert np.array_equal(shown[sprite[..., 3] > 0], sprite[sprite[..., 3] > 0])


def test_a_noun_can_have_the_colors_that_captions_mention():
    world = world_state()
    for noun in WORDS:
        assert [color for color in world["colors"] if color not in world["native"][noun]] == foreign_colors(noun)
    assert {decoded(uri).size for uri in world["grounds"].values()} == {(world["side"],) * 2}
