"""Remakes winoground/ from the photographs beside this file: python data_samples/photos/make.py

Each case shows two of the photographs on a plain ground twice; what its captions exchange is exchanged between them.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

HERE = Path(__file__).parent
GROUND, MARGIN = (236, 236, 232), 16
LARGE, SMALL = 256, 96  # pixels


def photo(name: str, side: int = LARGE) -> Image.Image:
    """The middle of a photograph, `side` × `side` pixels."""
    return ImageOps.fit(Image.open(HERE / f"{name}.jpg").convert("RGB"), (side, side), Image.Resampling.LANCZOS)


def gray(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def beside(*pictures: Image.Image, upright: bool = False) -> Image.Image:
    """Pictures of up to LARGE pixels in a row (or a column), each in the middle of its cell."""
    step = LARGE + MARGIN
    length = step * len(pictures) + MARGIN
    sheet = Image.new("RGB", (step + MARGIN, length) if upright else (length, step + MARGIN), GROUND)
    for number, picture in enumerate(pictures):
        along, across = MARGIN + number * step, MARGIN
        left, top = (across, along) if upright else (along, across)
        sheet.paste(picture, (left + (LARGE - picture.width) // 2, top + (LARGE - picture.height) // 2))
    return sheet


def cases() -> list[tuple[str, str, list[str], list[Image.Image]]]:
    """(collapsed tag, tag, two captions of the same words, two pictures)."""
    cat, coffee, rocket, flower, tower = map(photo, ("cat", "coffee", "rocket", "flower", "tower"))
    left, above = "{} to the left of {}", "{} above {}"
    return [
        ("Relation", "left of", _both(left, "a cat", "a cup of coffee"), [beside(cat, coffee), beside(coffee, cat)]),
        ("Relation", "above", _both(above, "a rocket", "a flower"),
         [beside(rocket, flower, upright=True), beside(flower, rocket, upright=True)]),
        ("Attribute", "size", _both("a {} photo of a cat and a {} photo of a flower", "large", "small"),
         [beside(cat, photo("flower", SMALL)), beside(photo("cat", SMALL), flower)]),
        ("Attribute", "color", _both("a {} flower and a {} Chinese tower", "colorful", "black and white"),
         [beside(flower, gray(tower)), beside(gray(flower), tower)]),
    ]  # fmt: skip


def _both(form: str, first: str, second: str) -> list[str]:
    return [form.format(first, second), form.format(second, first)]


def write_photo_cases(folder: Path) -> None:
    """Writes examples.jsonl and images/ in Winoground's layout; a folder that is there is replaced."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside_it:
        made, rows = Path(beside_it) / "made", []
        (made / "images").mkdir(parents=True)
        for number, (collapsed, tag, captions, pictures) in enumerate(cases()):
            images = [f"ex_{number}_img_{side}.jpg" for side in (0, 1)]
            for name, picture in zip(images, pictures, strict=True):
                picture.save(made / "images" / name, quality=86, optimize=True)
            row = {"id": number, "image_0": images[0], "image_1": images[1]}
            row |= {"caption_0": captions[0], "caption_1": captions[1]}
            rows.append({**row, "tag": tag, "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": collapsed})
        (made / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)


if __name__ == "__main__":
    write_photo_cases(HERE / "winoground")
