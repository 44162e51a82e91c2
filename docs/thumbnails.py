"""Make the README's notebook thumbnails from the figures that are stored in the notebooks.

python docs/thumbnails.py    # after docs/run_notebooks.py

The playground's is cut from docs/images/playground.png.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "thumbnails"
SIZE = (240, 150)  # shown at half of it
CHOSEN = {"03": 1}  # notebook -> which of its figures; by default the first


def figures(notebook: Path) -> list[Image.Image]:
    """Return the PNG figures of a notebook's outputs in order: `figures(Path("notebooks/03_finetune.ipynb"))[0]`."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    found = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


def thumbnail(figure: Image.Image) -> Image.Image:
    """Scale a figure to the thumbnail's width, or height if it is tall, and center it on white."""
    figure = figure.copy()
    figure.thumbnail(SIZE, Image.LANCZOS)
    page = Image.new("RGB", SIZE, "white")
    page.paste(figure, tuple((whole - part) // 2 for whole, part in zip(SIZE, figure.size, strict=True)))
    return page


def main() -> None:
    """Write one PNG of at most 20 kB per notebook."""
    FOLDER.mkdir(exist_ok=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        number = notebook.name[:2]
        found = figures(notebook)
        if not found:
            found = [Image.open(ROOT / "docs" / "images" / "playground.png").convert("RGB")]
        chosen = found[min(CHOSEN.get(number, 0), len(found) - 1)]
        thumbnail(chosen).quantize(64).save(FOLDER / f"{number}.png", optimize=True)


if __name__ == "__main__":
    main()
