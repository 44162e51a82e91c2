import colorsys
import itertools
from pathlib import Path

import numpy as np
import pytest

from vladva_kit.emoji_world import drawings
from vladva_kit.emoji_world.drawings import _sheet, drawing, foreign_colors, native_colors, nouns_in_style
from vladva_kit.emoji_world.nouns import COLORS, NOUNS, SEEN_STYLES, STYLES, UNSEEN_STYLE

LICENSES = Path(drawings.__file__).parent / "sprites" / "LICENSES.md"
EVERY = [(word, style) for style in range(len(STYLES)) for word in nouns_in_style(style)]


def test_the_sheet_has_a_row_for_each_noun_and_a_column_for_each_style():
    assert _sheet().size == (64 * len(STYLES), 64 * len(NOUNS))


def test_every_drawing_fills_its_cell_along_one_axis_and_is_centered():
    for noun, style in EVERY:
        sprite = drawing(noun, style)
        assert (sprite.size, sprite.mode) == ((64, 64), "RGBA")
        left, top, right, bottom = sprite.getbbox()
        assert max(right - left, bottom - top) >= 63, (noun, style)
        assert abs(left - (64 - right)) <= 2 and abs(top - (64 - bottom)) <= 2, (noun, style)


def test_sample_styles_have_every_noun_and_other_styles_most():
    for style in range(len(STYLES)):
        share = len(nouns_in_style(style)) / len(NOUNS)
        assert share == 1 if style in (*SEEN_STYLES, UNSEEN_STYLE) else share > 0.7


def test_no_two_drawings_are_the_same():
    assert len({drawing(noun, style).tobytes() for noun, style in EVERY}) == len(EVERY)


def test_a_recolored_drawing_has_the_hue_of_its_color():
    for (noun, style), color in zip(EVERY, itertools.cycle(COLORS), strict=False):
        expected = colorsys.rgb_to_hsv(*(channel / 255 for channel in COLORS[color]))[0]
        pixels = np.asarray(drawing(noun, style, color)).reshape(-1, 4)
        colored = [colorsys.rgb_to_hsv(*(p[:3] / 255)) for p in pixels[pixels[:, 3] > 128][::23]]
        distances = [min(abs(h - expected), 1 - abs(h - expected)) * 360 for h, s, v in colored if s > 0.2 and v > 0.2]
        assert len(distances) > 0.5 * len(colored), (noun, style, color)
        assert max(distances) < 6, (noun, style, color)


def test_recoloring_keeps_the_outline():
    plain, blue = (np.asarray(drawing("dog", 0, color)) for color in (None, "blue"))
    assert np.array_equal(plain[..., 3], blue[..., 3])
    assert not np.array_equal(plain[..., :3], blue[..., :3])


def test_recoloring_keeps_the_shading():
    for noun in ("panda", "dog", "clock"):
        plain, green = (np.asarray(drawing(noun, 0, color)) for color in (None, "green"))
        inside = plain[..., 3] > 128
        before, after = (pixels[..., :3].mean(-1)[inside] for pixels in (plain, green))
        assert np.corrcoef(before, after)[0, 1] > 0.8, noun


def test_native_colors_are_those_a_person_would_name():
    assert "red" in native_colors("heart") and "red" in native_colors("strawberry")
    assert "green" in native_colors("frog") and "orange" in native_colors("tiger")
    assert not native_colors("panda") and not native_colors("ghost")


def test_every_noun_has_colors_that_are_not_native():
    for noun in NOUNS:
        native = native_colors(noun.word)
        assert len(native) <= 4 and set(foreign_colors(noun.word)) == set(COLORS) - native


def test_every_style_is_credited_with_its_license():
    table = [line for line in LICENSES.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for style in STYLES:
        (row,) = [line for line in table if f"`{style}`" in line]
        assert any(license in row for license in ("Apache-2.0", "MIT", "CC BY 4.0")), style


def test_an_unknown_noun_or_color_raises_a_key_error():
    with pytest.raises(KeyError, match="unicorn"):
        drawing("unicorn", 0)
    with pytest.raises(KeyError, match="beige"):
        drawing("dog", 0, "beige")
