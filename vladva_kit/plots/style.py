"""What the figures are made of: one look, matrices with their marks, thumbnails; and how they become files.

Colors are those of Okabe & Ito 2008, which color-blind readers tell apart; a marker's shape says again which model.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vladva_kit.models.files import atomic_write
from vladva_kit.models.images import open_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, SKY, VERMILION, GREEN, ORANGE = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00"
LOOKS = ((ORANGE, "s"), (SKY, "^"), (BLUE, "o"), (GREEN, "D"), (VERMILION, "v"))  # color and marker of each model
GRAY, INK = "#6b6b6b", "#222222"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a caption with two dollar signs is no formula
}
MARKED = 24  # a matrix of up to so many rows and columns marks the right cells and those chosen


def wrapped(text: str, width: int, lines: int | None = None) -> str:
    """Text in lines of at most `width` letters, its own line ends kept; past `lines` it ends in "…"."""
    own = text.split("\n") if lines is None else [text]
    return "\n".join("\n".join(textwrap.wrap(line, width, max_lines=lines, placeholder=" …")) for line in own)


def thumbnail(image: Image.Image | Path | bytes, side: int = 160) -> Image.Image:
    """A square of the picture's middle: `thumbnail(photo).size == (160, 160)`."""
    picture = open_image(image)
    edge = min(picture.size)
    left, upper = (picture.width - edge) // 2, (picture.height - edge) // 2
    return picture.resize((side, side), box=(left, upper, left + edge, upper + edge), reducing_gap=2)


def checked_matrix(scores: Any, images: Sequence[Any] | None, texts: Sequence[str] | None) -> np.ndarray:
    """Scores (n_images, n_texts) as float64, or a ValueError that says what does not fit."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"scores have shape {values.shape}, or hold NaN; needed is (n_images, n_texts) of numbers")
    for name, given, n in (("images", images, values.shape[0]), ("texts", texts, values.shape[1])):
        if given is not None and len(given) != n:
            raise ValueError(f"{len(given)} {name} for scores of shape {values.shape}; give {n}, in the scores' order")
    return values


def matrix_size(values: np.ndarray, images: Any, texts: Any, panels: int) -> tuple[float, float]:
    """Inches that leave each labeled row half an inch; unlabeled matrices are as large however many their cells."""
    columns, rows = values.shape
    cell = 0.44 if images is not None or texts is not None else 3.4 / max(columns, rows)
    width = panels * max(cell * columns, 2.4) + (2.0 if texts is not None else 0.6) + 1.0
    return max(width, 4.4), cell * (rows + (images is not None)) + 1.4


def bare(axes: Axes) -> None:
    """Takes ticks and frame away: what stays is a picture, or room for words."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_matrix(axes: Axes, values: np.ndarray, limits: tuple[float, float], images: Any, texts: Any) -> Any:
    """Pictures as columns, captions as rows; `marks_meaning` says what the marks are."""
    columns, rows = values.shape
    drawn = axes.imshow(values.T, cmap="Blues", vmin=limits[0], vmax=limits[1], aspect="equal", interpolation="none")
    if max(columns, rows) <= MARKED:
        if columns == rows:
            for i in range(rows):
                frame = Rectangle((i - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.4)
                axes.add_patch(frame)
        chosen, by = np.nonzero(values == values.max(axis=0))  # of a tie, all
        axes.plot(chosen, by, "o", color=VERMILION, markeredgecolor="white", markersize=6)
    top = -0.5
    if images is not None:
        top = -1.6
        for column, image in enumerate(images):
            extent = (column - 0.47, column + 0.47, -0.6, -1.54)
            axes.imshow(np.asarray(thumbnail(image)), extent=extent, aspect="equal", interpolation="antialiased")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, top), xlabel="picture", ylabel="caption")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if images is not None:
        axes.set_xticks([])
    if texts is not None:
        axes.set_ylabel("")  # the captions speak for themselves
        axes.set_yticks(range(rows), [wrapped(text, 30, 3) for text in texts], fontsize=8, parse_math=False)
    return drawn


def marks_meaning(values: np.ndarray) -> str:
    """What the marks mean that `draw_matrix` makes."""
    if max(values.shape) > MARKED:
        return ""
    dot = "dot: the picture that the caption scores highest"
    return f"frame: the picture that the caption belongs to\n{dot}" if values.shape[0] == values.shape[1] else dot


def found_text(values: np.ndarray) -> str:
    """How many captions of a square matrix score their own picture strictly highest."""
    n = len(values)
    if values.shape != (n, n):
        return ""
    others = np.where(np.eye(n, dtype=bool), -np.inf, values)
    right = int((np.diag(values) > others.max(axis=0)).sum())
    return f"{right} of {n} captions find their picture"


def save(figure: Figure, path_stem: str | Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG, both whole or neither: `save(figure, "runs/demo/training")`.

    Returns the two paths; dots in the stem stay. The same figure gives the same bytes. Raises OSError as the disk does.
    """
    stem = Path(path_stem)
    png, svg = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg"))
    atomic_write({png: as_png(figure), svg: _rendered(figure, "svg")})
    return png, svg


def as_png(figure: Figure, dpi: int = 160) -> bytes:
    """The bytes of a PNG file: `as_png(figure)[:4] == b"\\x89PNG"`."""
    return _rendered(figure, "png", dpi=dpi)


def _rendered(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "vladva_kit"}):  # the same ids each time
        figure.savefig(buffer, format=kind, metadata=metadata, **options)
    return buffer.getvalue()


def figure_uri(figure: Figure, dpi: int = 160) -> str:
    """A figure as the `src` of an HTML `img`: `figure_uri(figure).startswith("data:image/png;base64,")`."""
    return f"data:image/png;base64,{base64.b64encode(as_png(figure, dpi)).decode()}"


def image_uri(image: Image.Image | Path | bytes, side: int = 320) -> str:
    """A picture of at most `side` pixels as the `src` of an HTML `img`; JPEG keeps a page of photographs small."""
    picture = open_image(image)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
