"""Build sprites.webp from nine openly licensed emoji sets of the npm registry.

    npm install @iconify-json/noto @iconify-json/noto-v1 @iconify-json/fluent-emoji-flat @iconify-json/emojione \
        @iconify-json/twemoji @iconify-json/fluent-emoji-high-contrast @iconify-json/emojione-monotone \
        @iconify-json/fxemoji @iconify-json/streamline-emojis
    pip install cairosvg
    python -m experiments.pretraining.make_sprites node_modules

The sheet has one row per noun and one column per style, in RGBA cells of `CELL` pixels.
"""

import io
import json
import sys
from pathlib import Path

from PIL import Image

from vladva_kit.emoji_world.nouns import NOUNS, STYLES

CELL = 64
# Two sets use other icon names.
OTHER_ICONS = {
    "fxemoji": """
        dog=dog cat=cat mouse=mouse rabbit=bunny panda=pandaface tiger=tiger pig=pig
        whale=spurtingwhale tree=deciduoustree apple=redapple
        eggplant=aubergine pizza=sliceofpizza cake=birthdaycake train=steamlocomotive house=housebuilding
        snowman=snowmanwithoutsnow ball=soccerball clock=alarmclock book=openbook heart=redheart
    """,
    "streamline-emojis": """
        bear=bear-face panda=panda-face lion=lion-face frog=frog-face penguin=penguin-1 cactus=cactus-1
        sunflower=sunflower-1 watermelon=watermelon-1 strawberry=strawberry-1 burger=hamburger-1 pizza=pizza-1
        donut=doughnut-1 cake=birthday-cake-1 heart=heart-suit
    """,
}
# Nouns that a set has no drawing of; their cells stay empty.
NOT_DRAWN = {
    "fxemoji": "lion duck butterfly crab",
    "streamline-emojis": """
        duck butterfly spider crab tree banana pineapple eggplant house star ball camera
        key clock chicken rainbow
    """,
}
SPRITES = Path(__file__).parents[2] / "vladva_kit" / "emoji_world" / "sprites"


def icon_svg(icons: dict, name: str) -> str:
    """Return one icon of an Iconify set as an SVG document, resolving aliases."""
    name = icons.get("aliases", {}).get(name, {"parent": name})["parent"]
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def trimmed_square(image: Image.Image) -> Image.Image:
    """Crop the empty margin and center the drawing, so that sizes are comparable across styles."""
    drawing = image.crop(image.getbbox())
    scale = CELL / max(drawing.size)
    drawing = drawing.resize([max(1, round(side * scale)) for side in drawing.size], Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(drawing, ((CELL - drawing.width) // 2, (CELL - drawing.height) // 2))
    return cell


def main(node_modules: Path) -> None:
    """Draw the sheet. Raises SystemExit, before writing, if an icon is missing."""
    import cairosvg

    sheet = Image.new("RGBA", (CELL * len(STYLES), CELL * len(NOUNS)))
    for column, style in enumerate(STYLES):
        icons = json.loads((node_modules / "@iconify-json" / style / "icons.json").read_text())
        names = dict(entry.split("=") for entry in OTHER_ICONS.get(style, "").split())
        for row, noun in enumerate(NOUNS):
            if noun.word in NOT_DRAWN.get(style, "").split():
                continue
            name = names.get(noun.word, noun.icon)
            try:
                svg = icon_svg(icons, name)
            except KeyError:
                raise SystemExit(
                    f"{style} has no icon '{name}' for the noun '{noun.word}': add it to OTHER_ICONS or NOT_DRAWN"
                ) from None
            png = cairosvg.svg2png(svg.encode(), output_width=4 * CELL, output_height=4 * CELL)
            sheet.paste(trimmed_square(Image.open(io.BytesIO(png)).convert("RGBA")), (CELL * column, CELL * row))
    sheet.save(SPRITES / "sprites.webp", lossless=True, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
