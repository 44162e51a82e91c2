import colorsys
import itertools
from pathlib import Path

import numpy as np
import pytest

from vladva_kit.emoji_world import drawings
from vladva_kit.emoji_world.drawings import _sheet, drawing, drawn_in, native_colors
from vladva_kit.emoji_world.nouns import COLORS, NOUNS, SEEN_STYLES, STYLES, UNSEEN_STYLE

LICENSES = Path(drawings.__file__).parent / "sprites" / "LICENSES.md"
EVERY = [(word, style) for style in range(len(STYLES)) for word in drawn_in(style)]


def test_the_sheet_has_a_row_for_each_noun_and_a_column_for_each_style():
    assert _sheet().size == (64 * len(STYLES), 64 * len(NOUNS))


def test_every_drawing_fills_its_cell_in_one_direction_and_is_centerd():
    for noun, style in EVERY:
        sprite = drawing(noun, style)
        assert (sprite.size, sprite.mode) == ((64, 64), "RGBA")
        left, top, right, bottom = sprite.getbbox()
        assert max(right - left, bottom - top) >= 63, (noun, style)
        assert abs(left - (64 - right)) <= 2 and abs(top - (64 - bottom)) <= 2, (noun, style)


def test_the_styles_of_samples_and_tests_draw_everything_and_the_others_most():
    for style in range(len(STYLES)):
        share = len(drawn_in(style)) / len(NOUNS)
        assert share == 1 if style in (*SEEN_STYLES, UNSEEN_STYLE) else share > 0.7


def test_no_two_drawings_are_the_same():
    assert len({drawing(noun, style).tobytes() for noun, style in EVERY}) == len(EVERY)


def test_a_tinted_drawing_has_the_hue_of_its_tint():
    colors = itertools.cycle(COLORS)
    for (noun, style), color in zip(EVERY, colors, strict=False):
        wanted = colorsys.rgb_to_hsv(*(part / 255 for part in COLORS[color]))[0]
        pixels = np.asarray(drawing(noun, style, color)).reshape(-1, 4)
        colored = [colorsys.rgb_to_hsv(*(p[:3] / 255)) for p in pixels[pixels[:, 3] > 128][::23]]
        apart = [min(abs(h - wanted), 1 - abs(h - wanted)) * 360 for h, s, v in colored if s > 0.2 and v > 0.2]
        assert len(apart) > 0.5 * len(colored), (noun, style, color)
        assert max(apart) < 6, (noun, style, color)


def test_a_tint_changes_colors_but_not_the_outline():
    plain, blue = (np.asarray(drawing("dog", 0, color)) for color in (None, "blue"))
    assert np.array_equal(plain[..., 3], blue[..., 3])
    assert not np.array_equal(plain[..., :3], blue[..., :3])


def test_a_tinted_drawing_keeps_its_light_and_shade():
    for noun in ("panda", "dog", "clock"):
        plain, colored = (np.asarray(drawing(noun, 0, color).convert("RGBA")) for color in (None, "green"))
        inside = plain[..., 3] > 128
        before, after = (one[..., :3].mean(-1)[inside] for one in (plain, colored))
        assert np.corrcoef(before, after)[0, 1] > 0.8, noun


def test_own_tints_are_those_a_person_would_name():
    assert "red" in native_colors("heart") and "red" in native_colors("strawberry")
    assert "green" in native_colors("frog") and "orange" in native_colors("tiger")
    assert not native_colors("panda") and not native_colors("ghost")


def test_every_thing_can_be_tinted_in_some_color_that_is_not_its_own():
    assert all(len(native_colors(noun.word)) <= 4 < len(COLORS) for noun in NOUNS)


def test_every_style_has_its_author_and_license_named():
    table = [line for line in LICENSES.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for style in STYLES:
        (row,) = [line for line in table if f"`{style}`" in line]
        assert any(license in row for license in ("Apache-2.0", "MIT", "CC BY 4.0")), style


def test_an_unknown_noun_or_tint_is_a_key_error_that_names_it():
    with pytest.raises(KeyError, match="unicorn"):
        drawing("unicorn", 0)
    with pytest.raises(KeyError, match="beige"):
        drawing("dog", 0, "beige")
