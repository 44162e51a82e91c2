"""The script that makes the sprite sheet: SVGs out of an iconify set, drawings centerd, the sheet that is shipped."""

import numpy as np
import pytest
from PIL import Image

from experiments.pretraining import make_sprites as make
from vladva_kit.emoji_world.drawings import drawn_in
from vladva_kit.emoji_world.nouns import NOUNS, STYLES


def test_an_icon_becomes_a_whole_svg_and_aliases_are_followed():
    icons = {
        "width": 36,
        "icons": {"dog": {"body": "<path d='M0'/>"}, "cat": {"body": "<g/>", "width": 20, "height": 30}},
        "aliases": {"hound": {"parent": "dog"}},
    }
    dog = make.icon_svg(icons, "dog")
    assert dog == make.icon_svg(icons, "hound") and dog.endswith("><path d='M0'/></svg>")
    assert 'viewBox="0 0 36 16" width="36" height="16"' in dog  # what the set does not say is iconify's 16
    assert 'viewBox="0 0 20 30"' in make.icon_svg(icons, "cat")
    with pytest.raises(KeyError, match="unicorn"):
        make.icon_svg(icons, "unicorn")


@pytest.mark.parametrize("box", [(10, 20, 50, 30), (0, 0, 9, 90), (40, 40, 41, 41)])
def test_a_drawing_loses_its_margin_and_is_centerd(box):
    image = Image.new("RGBA", (100, 100))
    image.paste((255, 0, 0, 255), box)
    cell = make.trimmed_square(image)
    inside = np.argwhere(np.asarray(cell)[..., 3] > 128)
    low, high = inside.min(0), inside.max(0) + 1
    assert cell.size == (make.CELL, make.CELL) and (high - low).max() == make.CELL
    assert np.abs(low - (make.CELL - high)).max() <= 1
    width, height = box[2] - box[0], box[3] - box[1]
    tall, wide = high - low
    assert wide / tall == pytest.approx(width / height, rel=0.15)


def test_the_sheet_that_is_shipped_is_empty_where_the_script_leaves_it_empty():
    for column, style in enumerate(STYLES):
        missing = make.NOT_DRAWN.get(style, "").split()
        assert list(drawn_in(column)) == [noun.word for noun in NOUNS if noun.word not in missing]


def test_names_in_the_script_are_of_nouns_that_there_are():
    words = {noun.word for noun in NOUNS}
    for table in (make.OTHER_ICONS, make.NOT_DRAWN):
        assert set(table) <= set(STYLES)
        assert {entry.partition("=")[0] for names in table.values() for entry in names.split()} <= words
