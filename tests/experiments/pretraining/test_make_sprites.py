"""The sprite sheet script: SVGs from an Iconify set, centering, and agreement with the shipped sheet."""

import numpy as np
import pytest
from PIL import Image

from experiments.pretraining import make_sprites
from vladva_kit.emoji_world.drawings import nouns_in_style
from vladva_kit.emoji_world.nouns import NOUNS, STYLES


def test_an_icon_becomes_an_svg_document_and_aliases_are_resolved():
    icons = {
        "width": 36,
        "icons": {"dog": {"body": "<path d='M0'/>"}, "cat": {"body": "<g/>", "width": 20, "height": 30}},
        "aliases": {"hound": {"parent": "dog"}},
    }
    dog = make_sprites.icon_svg(icons, "dog")
    assert dog == make_sprites.icon_svg(icons, "hound") and dog.endswith("><path d='M0'/></svg>")
    assert 'viewBox="0 0 36 16" width="36" height="16"' in dog  # Iconify's default is 16
    assert 'viewBox="0 0 20 30"' in make_sprites.icon_svg(icons, "cat")
    with pytest.raises(KeyError, match="unicorn"):
        make_sprites.icon_svg(icons, "unicorn")


@pytest.mark.parametrize("box", [(10, 20, 50, 30), (0, 0, 9, 90), (40, 40, 41, 41)])
def test_a_drawing_is_cropped_and_centered(box):
    image = Image.new("RGBA", (100, 100))
    image.paste((255, 0, 0, 255), box)
    cell = make_sprites.trimmed_square(image)
    inside = np.argwhere(np.asarray(cell)[..., 3] > 128)
    low, high = inside.min(0), inside.max(0) + 1
    assert cell.size == (make_sprites.CELL, make_sprites.CELL) and (high - low).max() == make_sprites.CELL
    assert np.abs(low - (make_sprites.CELL - high)).max() <= 1
    width, height = box[2] - box[0], box[3] - box[1]
    tall, wide = high - low
    assert wide / tall == pytest.approx(width / height, rel=0.15)


def test_the_shipped_sheet_has_the_empty_cells_of_the_script():
    for column, style in enumerate(STYLES):
        missing = make_sprites.NOT_DRAWN.get(style, "").split()
        assert list(nouns_in_style(column)) == [noun.word for noun in NOUNS if noun.word not in missing]


def test_the_scripts_tables_use_existing_nouns():
    words = {noun.word for noun in NOUNS}
    for table in (make_sprites.OTHER_ICONS, make_sprites.NOT_DRAWN):
        assert set(table) <= set(STYLES)
        assert {entry.partition("=")[0] for names in table.values() for entry in names.split()} <= words
