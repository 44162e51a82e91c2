"""Shared parts of all figures: colors, titles, text wrapping, thumbnails, input checks, and export to files and HTML.

Colors are from Okabe & Ito 2008, which is safe for color-blind readers; each model also has its own marker.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import Formatter
from PIL import Image

from vladva_kit.evaluation.metrics import check_scores
from vladva_kit.models.files import atomic_write, printable
from vladva_kit.models.images import ImageLike, open_image

BLUE, SKY, VERMILION, GREEN, ORANGE = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00"
MODEL_STYLES = ((ORANGE, "s"), (SKY, "^"), (BLUE, "o"), (GREEN, "D"), (VERMILION, "v"))  # color and marker
GRAY, INK = "#6b6b6b", "#222222"
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a caption with two dollar signs is not a formula
}
styled = matplotlib.rc_context(STYLE)  # decorates the functions that draw


def new_figure(width: float, height: float, title: str, answer: str = "") -> Figure:
    """Create a figure in inches, with a title and, below it, one sentence that states the result.

    The figure is not registered with pyplot, so it neither stays in memory nor pops up in a notebook.
    """
    figure = _Figure(figsize=(width, height), layout="constrained")
    lines = [title, answer[:1].upper() + answer[1:]]
    figure.suptitle("\n".join(wrap_text(line, int(11 * width)) for line in lines if line))
    return figure


class _Figure(Figure):
    """A figure that shows control characters as escapes: SVG, which is XML, cannot hold them."""

    def draw(self, renderer: Any) -> None:
        """Escape all texts, those of ticks too, then draw."""
        for axis in self.findobj(Axis):
            for formatter in (axis.get_major_formatter(), axis.get_minor_formatter()):
                cast(Any, formatter).format_ticks = partial(_format_ticks, formatter)
        for text in self.findobj(Text):
            if (shown := printable(text.get_text())) != text.get_text():
                text.set_text(shown)
        super().draw(renderer)


def _format_ticks(formatter: Formatter, values: Sequence[float]) -> list[str]:
    return [printable(label) for label in type(formatter).format_ticks(formatter, list(values))]


def wrap_text(text: str, width: int, max_lines: int | None = None) -> str:
    """Break text into lines of at most `width` characters; existing line breaks stay unless `max_lines` truncates."""
    lines = text.split("\n") if max_lines is None else [text]
    return "\n".join("\n".join(textwrap.wrap(line, width, max_lines=max_lines, placeholder=" …")) for line in lines)


def decimals_needed(values: Any, fewest: int = 2, most: int = 6) -> int:
    """Count the decimals at which different values look different: `decimals_needed([0.91231, 0.91229]) == 5`."""
    different = np.unique(np.asarray(values, dtype=np.float64))
    enough = (n for n in range(fewest, most) if len({f"{value:.{n}f}" for value in different}) == len(different))
    return next(enough, most)


def thumbnail(image: ImageLike, side: int = 160) -> Image.Image:
    """Crop the central square of an image and resize it: `thumbnail(photo).size == (160, 160)`."""
    opened = open_image(image)
    edge = min(opened.size)
    left, upper = (opened.width - edge) // 2, (opened.height - edge) // 2
    return opened.resize((side, side), box=(left, upper, left + edge, upper + edge), reducing_gap=2)


def check_matrix(
    scores: Any, images: Sequence[Any] | None = None, texts: Sequence[str] | None = None, square: bool = False
) -> np.ndarray:
    """Return scores (n_images, n_texts) as float64; raise ValueError if they are not finite or a size does not match.

    With `square`, image i must belong to caption i, so (n, n) with n of 2 or more is required.
    """
    values = check_scores(scores, ndim=2)
    if square and (values.shape[0] != values.shape[1] or len(values) < 2):
        raise ValueError(f"scores have shape {values.shape}; image i must belong to caption i, for at least 2 pairs")
    for kind, items, n in (("images", images, values.shape[0]), ("texts", texts, values.shape[1])):
        if items is not None and len(items) != n:
            raise ValueError(f"{len(items)} {kind} for scores of shape {values.shape}; give {n}, in the same order")
    return values


def label_rows(axes: Axes, names: Sequence[str], **font: Any) -> None:
    """Label horizontal bars or rows of dots 0, 1, … from top to bottom, without tick marks."""
    axes.set_yticks(range(len(names)), names, parse_math=False, **font)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def show_image(axes: Axes, image: ImageLike, title: str = "") -> None:
    """Show an image without ticks and frame."""
    axes.imshow(np.asarray(open_image(image)))
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)


def save(figure: Figure, path_stem: str | Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG, both complete or neither: `save(figure, "runs/demo/training")`.

    Returns the two paths; dots in the stem are kept. The same figure gives the same bytes. Raises OSError.
    """
    stem = Path(path_stem)
    png, svg = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg"))
    atomic_write({png: as_png(figure), svg: _render(figure, "svg")})
    return png, svg


def as_png(figure: Figure, dpi: int = 160) -> bytes:
    """Render a figure to the bytes of a PNG file: `as_png(figure)[:4] == b"\\x89PNG"`."""
    return _render(figure, "png", dpi=dpi)


def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "vladva_kit"}):  # reproducible ids
        figure.savefig(buffer, format=kind, metadata=metadata, **options)
    return buffer.getvalue()


def figure_uri(figure: Figure, dpi: int = 160) -> str:
    """Encode a figure as the `src` of an HTML `img`: `figure_uri(figure).startswith("data:image/png;base64,")`."""
    return f"data:image/png;base64,{base64.b64encode(as_png(figure, dpi)).decode()}"


def image_uri(image: ImageLike, side: int = 320) -> str:
    """Encode an image of at most `side` pixels as the `src` of an HTML `img`, as JPEG to keep pages small."""
    opened = open_image(image)
    opened.thumbnail((side, side))
    buffer = io.BytesIO()
    opened.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
