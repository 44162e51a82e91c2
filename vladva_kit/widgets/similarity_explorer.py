"""Every image with every caption: a similarity matrix, and the image, caption and ranks of each of its cells."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from vladva_kit.evaluation.metrics import ranks
from vladva_kit.models.files import atomic_write
from vladva_kit.models.images import ImageLike
from vladva_kit.plots.similarity import retrieval_sentence
from vladva_kit.plots.style import check_matrix
from vladva_kit.widgets.base import WidgetBase, controls, error_text
from vladva_kit.widgets.page import View, page

SORTS = ("as given", "most confused first", "highest score first")
LABELED = 24  # a matrix of up to this many rows and columns shows its images and captions
MAX_CELL, MAX_MATRIX = 44, 528  # pixels


def ranks_of(scores: Any, image: int, caption: int) -> tuple[int, int]:
    """Return the image's rank for the caption and the caption's rank for the image: `ranks_of(scores, 3, 5)`.

    `scores` is (n_images, n_texts); ranks start at 1, and an equal score counts as a better one.
    """
    values = np.asarray(scores, dtype=np.float64)
    score = values[image, caption]
    return int((values[:, caption] >= score).sum()), int((values[image] >= score).sum())


def sort_orders(scores: Any, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of images (n_images,) and captions (n_texts,): `sort_orders(scores, "as given")`.

    "most confused first" sorts by how far the best wrong partner leads the right one and needs a square matrix in
    which image i belongs to caption i; "highest score first" sorts by the best score of each row and column.
    Raises ValueError for another name, or for a matrix that is not square.
    """
    values = np.asarray(scores, dtype=np.float64)
    if by == "as given":
        return np.arange(values.shape[0]), np.arange(values.shape[1])
    if by == "highest score first":
        return np.argsort(-values.max(1), kind="stable"), np.argsort(-values.max(0), kind="stable")
    if by != "most confused first":
        raise ValueError(f"cannot sort by '{by}': choose from {', '.join(SORTS)}")
    if values.shape[0] != values.shape[1]:
        raise ValueError(f"{values.shape[0]} images, {values.shape[1]} captions: 'most confused first' needs pairs")
    leads = [ranks(scores, np.eye(len(values), dtype=bool)).margin for scores in (values, values.T)]
    order = np.argsort(np.minimum(*leads), kind="stable")
    return order, order


def similarity_view(
    scores: Mapping[str, Any],
    images: Sequence[ImageLike],
    captions: Sequence[str],
    model: str | None = None,
    selected: tuple[int, int] = (0, 0),
    sort: str = "as given",
) -> View:
    """Show a matrix and one of its cells: `similarity_view({"before": a, "after": b}, images, captions, "after")`.

    Each of `scores` is (n_images, n_texts), and all share one color scale; `selected` is an image's and a caption's
    index as given. Images are columns, captions are rows. Raises ValueError for shapes that do not fit, or for a model
    without scores.
    """
    matrices = {name: check_matrix(values, images, captions) for name, values in scores.items()}
    model = next(iter(matrices), None) if model is None else model
    if model not in matrices:
        raise ValueError(f"no scores of '{model}'; there are those of {', '.join(matrices) or 'no model'}")
    values, (image, caption) = matrices[model], selected
    if not (0 <= image < len(images) and 0 <= caption < len(captions)):
        raise ValueError(f"image {image} and caption {caption} are outside the scores of shape {values.shape}")
    orders = sort_orders(values, sort)
    columns, rows = (order.tolist() for order in orders)
    low, high = min(map(np.min, matrices.values())), max(map(np.max, matrices.values()))
    heat = _heat((values[np.ix_(*orders)].T - low) / ((high - low) or 1.0))
    labeled = max(values.shape) <= LABELED
    cell = min(MAX_MATRIX / max(values.shape), MAX_CELL if labeled else MAX_MATRIX)
    sentence = retrieval_sentence(values)
    return page(
        "similarity_view", heading=f"{model}: {sentence}" if sentence else model, images=images, captions=captions,
        columns=columns, rows=rows, image=image, caption=caption, ranks=ranks_of(values, image, caption),
        scores={name: matrix[selected] for name, matrix in matrices.items()}, labeled=labeled, cell=cell,
        low=low, high=high, heat=heat, scale=_heat(np.linspace(0, 1, 256)[None]),
    )  # fmt: skip


def _heat(values: np.ndarray) -> str:
    """Return a PNG of a matrix, one pixel per value from 0 (pale) to 1 (dark), as the source of an HTML image."""
    buffer = io.BytesIO()
    Image.fromarray(colormaps["Blues"](values, bytes=True)[..., :3]).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class SimilarityExplorer(WidgetBase):
    """Choose an image and a caption; see their scores and ranks: `SimilarityExplorer({"base": a}, images, captions)`.

    Each matrix is (n_images, n_texts), from any source. Raises ValueError as `similarity_view` does.
    """

    def __init__(self, scores: Mapping[str, Any], images: Sequence[ImageLike], captions: Sequence[str]) -> None:
        super().__init__()
        self.scores = {name: check_matrix(values, images, captions) for name, values in scores.items()}
        self.images, self.captions = list(images), list(captions)
        square = len(self.images) == len(self.captions)
        widgets = controls()
        self.model = widgets.ToggleButtons(options=list(self.scores), description="model")
        self.image = widgets.IntSlider(min=1, max=len(images), description="image", continuous_update=False)
        options = [(f"{number}: {text}", number) for number, text in enumerate(self.captions, start=1)]
        self.caption = widgets.Dropdown(options=options, description="caption", layout=widgets.Layout(width="36em"))
        self.sort = widgets.Dropdown(options=[by for by in SORTS if square or by != SORTS[1]], description="sort")
        self.file = widgets.Text(value="similarity.csv", description="file")
        self.export_button = widgets.Button(description="export")
        self.redraw_on(self.model, self.image, self.caption, self.sort)
        self.export_button.on_click(self.handler(self._export))
        self._assemble([self.model, self.sort], [self.image, self.caption], [self.file, self.export_button])
        self.refresh()

    def draw(self) -> View:
        """Show the matrix of the chosen model and the chosen cell."""
        selected = self.image.value - 1, self.caption.value - 1
        return similarity_view(self.scores, self.images, self.captions, self.model.value, selected, self.sort.value)

    def export(self, path: str | Path) -> Path:
        """Write the chosen model's matrix as CSV, one row per image and one column per caption; return the path."""
        lines = io.StringIO()
        writer = csv.writer(lines)
        writer.writerow(["image", *self.captions])
        rows = self.scores[self.model.value].tolist()
        writer.writerows([number, *row] for number, row in enumerate(rows, start=1))
        atomic_write({Path(path): lines.getvalue().encode()})
        return Path(path)

    def _export(self) -> None:
        try:
            self.message.value = page("hint", text=f"saved: {self.export(self.file.value)}")
        except Exception as error:  # such as a name that no file can have
            self.message.value = page("message", text=f"not saved: {error_text(error)}")
