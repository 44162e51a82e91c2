"""Rebuild winoground/ from the photos in this folder: python data_samples/photos/make.py

Each case combines two photos on a plain background twice, and exchanges between them what its captions exchange.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

HERE = Path(__file__).parent
BACKGROUND, MARGIN = (236, 236, 232), 16
LARGE, SMALL = 256, 96  # pixels


def photo(name: str, side: int = LARGE) -> Image.Image:
    """Return the center of a photo, `side` × `side` pixels."""
    return ImageOps.fit(Image.open(HERE / f"{name}.jpg").convert("RGB"), (side, side), Image.Resampling.LANCZOS)


def gray(image: Image.Image) -> Image.Image:
    """Convert to black and white, as RGB."""
    return image.convert("L").convert("RGB")


def combine(*images: Image.Image, vertical: bool = False) -> Image.Image:
    """Arrange images of up to LARGE pixels in a row (or a column), each centered in its cell."""
    step = LARGE + MARGIN
    length = step * len(images) + MARGIN
    sheet = Image.new("RGB", (step + MARGIN, length) if vertical else (length, step + MARGIN), BACKGROUND)
    for number, image in enumerate(images):
        along, across = MARGIN + number * step, MARGIN
        left, top = (across, along) if vertical else (along, across)
        sheet.paste(image, (left + (LARGE - image.width) // 2, top + (LARGE - image.height) // 2))
    return sheet


def cases() -> list[tuple[str, str, list[str], list[Image.Image]]]:
    """Return (collapsed tag, tag, two captions with the same words, two images) per case."""
    cat, coffee, rocket, flower, tower = map(photo, ("cat", "coffee", "rocket", "flower", "tower"))
    left, above = "{} to the left of {}", "{} above {}"
    return [
        ("Relation", "left of", _both(left, "a cat", "a cup of coffee"), [combine(cat, coffee), combine(coffee, cat)]),
        ("Relation", "above", _both(above, "a rocket", "a flower"),
         [combine(rocket, flower, vertical=True), combine(flower, rocket, vertical=True)]),
        ("Attribute", "size", _both("a {} photo of a cat and a {} photo of a flower", "large", "small"),
         [combine(cat, photo("flower", SMALL)), combine(photo("cat", SMALL), flower)]),
        ("Attribute", "color", _both("a {} flower and a {} Chinese tower", "colorful", "black and white"),
         [combine(flower, gray(tower)), combine(gray(flower), tower)]),
    ]  # fmt: skip


def _both(form: str, first: str, second: str) -> list[str]:
    return [form.format(first, second), form.format(second, first)]


def write_photo_cases(folder: Path) -> None:
    """Write examples.jsonl and images/ in Winoground's layout, replacing an existing folder."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as tmp_dir:
        complete, rows = Path(tmp_dir) / "complete", []
        (complete / "images").mkdir(parents=True)
        for number, (collapsed, tag, captions, images) in enumerate(cases()):
            names = [f"ex_{number}_img_{side}.jpg" for side in (0, 1)]
            for name, image in zip(names, images, strict=True):
                image.save(complete / "images" / name, quality=86, optimize=True)
            row = {"id": number, "image_0": names[0], "image_1": names[1]}
            row |= {"caption_0": captions[0], "caption_1": captions[1]}
            rows.append({**row, "tag": tag, "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": collapsed})
        (complete / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(complete, folder)


if __name__ == "__main__":
    write_photo_cases(HERE / "winoground")
