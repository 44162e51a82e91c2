"""Every picture with every caption: a matrix, and what stands behind each of its cells."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image as PillowImage

from vladva_kit.models.files import atomic_write
from vladva_kit.plots.figures import decimals
from vladva_kit.plots.style import checked_matrix, found_text, image_uri, thumbnail, wrapped
from vladva_kit.widgets.base import WidgetBase, controls
from vladva_kit.widgets.page import View, page

if TYPE_CHECKING:
    from PIL import Image

SORTS = ("as given", "most confused first", "highest score first")
LABELED = 24  # a matrix of up to so many rows and columns shows its pictures and captions
LARGEST, WIDEST = 44, 528  # a cell's pixels, the matrix's pixels
LETTERS, LINE = 32, 13  # a line of a caption: its letters, and its pixels


@dataclass(frozen=True)
class Cell:
    """One picture with one caption; ranks begin at 1, and an equal score counts as a better one."""

    picture: int
    caption: int
    score: float
    picture_rank: int  # among all pictures, for this caption
    caption_rank: int  # among all captions, for this picture


def cell_of(scores: Any, picture: int, caption: int) -> Cell:
    """What a cell says: `cell_of(scores, picture=3, caption=5).picture_rank`; `scores` (n_images, n_texts)."""
    values = np.asarray(scores, dtype=np.float64)
    score = values[picture, caption]
    ranks = int((values[:, caption] >= score).sum()), int((values[picture] >= score).sum())
    return Cell(picture, caption, float(score), *ranks)


def sorted_places(scores: Any, by: str) -> tuple[np.ndarray, np.ndarray]:
    """The order of pictures and of captions, (n_images,) and (n_texts,): `sorted_places(scores, "as given")`.

    "most confused first" goes by how far the best wrong partner leads the right one, and needs a square matrix in
    which picture i belongs to caption i; "highest score first" by the best score of each row and column.
    Raises ValueError for another word, or for a matrix that is not square.
    """
    values = np.asarray(scores, dtype=np.float64)
    if by == "as given":
        return np.arange(values.shape[0]), np.arange(values.shape[1])
    if by == "highest score first":
        return np.argsort(-values.max(1), kind="stable"), np.argsort(-values.max(0), kind="stable")
    if by != "most confused first":
        raise ValueError(f"sort by {', '.join(SORTS)}; not by '{by}'")
    if values.shape[0] != values.shape[1]:
        raise ValueError(f"{values.shape[0]} pictures, {values.shape[1]} captions: which belong together is not known")
    wrong = np.where(np.eye(len(values), dtype=bool), -np.inf, values)
    lead = np.diag(values) - np.maximum(wrong.max(0), wrong.max(1))
    order = np.argsort(lead, kind="stable")
    return order, order


def similarity_view(
    scores: Mapping[str, Any],
    pictures: Sequence[Image.Image | Path | bytes],
    captions: Sequence[str],
    model: str | None = None,
    chosen: tuple[int, int] = (0, 0),
    sort: str = "as given",
) -> View:
    """A matrix and one of its cells: `similarity_view({"before": a, "after": b}, pictures, captions, "after", (3, 5))`.

    Each of `scores` is (n_images, n_texts); `chosen` names a picture and a caption by their places as given. Pictures
    are columns, captions rows. Raises ValueError for shapes that do not fit or a model that is not among them.
    """
    matrices = {name: checked_matrix(values, pictures, captions) for name, values in scores.items()}
    model = next(iter(matrices), None) if model is None else model
    if model not in matrices:
        raise ValueError(f"no scores of '{model}'; there are those of {', '.join(matrices) or 'no model'}")
    values = matrices[model]
    if not (0 <= chosen[0] < len(pictures) and 0 <= chosen[1] < len(captions)):
        raise ValueError(f"picture {chosen[0]} and caption {chosen[1]} are not among those of shape {values.shape}")
    orders = sorted_places(values, sort)
    places = decimals([values.min(), values.max()])
    found = found_text(values)
    return page(
        "similarity_view",
        heading=f"{model}: {found}" if found else model,
        n_pictures=len(pictures),
        n_captions=len(captions),
        low=f"{values.min():.{places}f}",
        high=f"{values.max():.{places}f}",
        picture=image_uri(pictures[chosen[0]]),
        caption=captions[chosen[1]],
        cell=cell_of(values, *chosen),
        models=[{"name": name, "score": f"{matrix[chosen]:.4f}"} for name, matrix in matrices.items()],
        own=_own_text(values, chosen),
        unseen=(),
        **_drawn(values, orders, pictures, captions, chosen),
    )


def _own_text(values: np.ndarray, chosen: tuple[int, int]) -> str:
    if values.shape[0] != values.shape[1]:
        return ""
    return "They belong together." if chosen[0] == chosen[1] else "They do not belong together."


def _drawn(
    values: np.ndarray,
    orders: tuple[np.ndarray, np.ndarray],
    pictures: Sequence[Any],
    captions: Sequence[str],
    chosen: tuple[int, int],
) -> dict[str, Any]:
    """Where everything of the matrix is, in pixels of its SVG."""
    columns, rows = values.shape
    labeled = max(columns, rows) <= LABELED
    cell = min(WIDEST / max(columns, rows), LARGEST if labeled else WIDEST)
    left, top = (LETTERS * 7, cell + 6) if labeled else (24, 24)
    spread = np.ptp(values) or 1.0
    shades = colormaps["Blues"]((values[np.ix_(*orders)].T - values.min()) / spread, bytes=True)
    buffer = io.BytesIO()
    PillowImage.fromarray(shades[..., :3]).save(buffer, "PNG")
    at = [int(np.flatnonzero(order == place)[0]) for order, place in zip(orders, chosen, strict=True)]
    shown = orders if labeled else ([], [])
    return {
        "left": left,
        "top": top,
        "side_x": cell * columns,
        "side_y": cell * rows,
        "heat": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "mark": f"scale-{hashlib.sha256(buffer.getvalue()).hexdigest()[:12]}",  # a page may hold several matrices
        "scale": [to_hex(colormaps["Blues"](part)) for part in np.linspace(0, 1, 5)],
        "chosen": {"x": left + cell * at[0], "y": top + cell * at[1], "width": cell, "height": cell},
        "thumbnails": [
            {
                "src": image_uri(thumbnail(pictures[place], 64)),
                "x": left + cell * column + 1,
                "y": top - cell - 2,
                "side": cell - 2,
                "title": f"picture {place + 1}",
            }
            for column, place in enumerate(shown[0])
        ],
        "labels": [
            _label(captions[place], top + cell * (row + 0.5), cell, place == chosen[1])
            for row, place in enumerate(shown[1])
        ],
    }


def _label(caption: str, middle: float, cell: float, chosen: bool) -> dict[str, Any]:
    """A caption beside its row, in as many lines as the row has room for; what is cut stands in its title."""
    room = max(1, int(cell // LINE))
    lines = wrapped(caption, LETTERS, room).split("\n")
    first = middle + 4 - LINE * (len(lines) - 1) / 2
    placed = [{"text": line, "y": round(first + LINE * number, 1)} for number, line in enumerate(lines)]
    return {"lines": placed, "caption": caption, "chosen": chosen}


def similarity_csv(scores: Any, captions: Sequence[str]) -> bytes:
    """A matrix as CSV, UTF-8, a row for each picture under the captions: `similarity_csv(scores, captions)`."""
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(["picture", *captions])
    writer.writerows([number, *row] for number, row in enumerate(np.asarray(scores).tolist(), start=1))
    return lines.getvalue().encode()


class SimilarityExplorer(WidgetBase):
    """Choose a picture and a caption; see them, their score and their ranks, before and after.

        SimilarityExplorer({"before": before, "after": after}, pictures, captions)

    Each matrix is (n_images, n_texts), from anywhere. Raises ValueError as `similarity_view` does.
    """

    def __init__(
        self, scores: Mapping[str, Any], pictures: Sequence[Image.Image | Path | bytes], captions: Sequence[str]
    ) -> None:
        super().__init__()
        self.scores = {name: checked_matrix(values, pictures, captions) for name, values in scores.items()}
        self.pictures, self.captions = list(pictures), list(captions)
        square = len(self.pictures) == len(self.captions)
        widgets = controls()
        self.model = widgets.ToggleButtons(options=list(self.scores), description="model")
        self.picture = widgets.IntSlider(min=1, max=len(pictures), description="picture", continuous_update=False)
        named = [(f"{number}: {text}", number) for number, text in enumerate(self.captions, start=1)]
        self.caption = widgets.Dropdown(options=named, description="caption", layout=widgets.Layout(width="36em"))
        self.sort = widgets.Dropdown(options=[by for by in SORTS if square or by != SORTS[1]], description="sort")
        self.file = widgets.Text(value="similarity.csv", description="file")
        self.export_button = widgets.Button(description="export")
        self.said = widgets.HTML()
        self.follow(self.model, self.picture, self.caption, self.sort)
        self.export_button.on_click(lambda _: self._export())
        rows = [[self.model, self.sort], [self.picture, self.caption], [self.file, self.export_button, self.said]]
        self.box = widgets.VBox([*map(widgets.HBox, rows), self.view])
        self.refresh()

    def draw(self) -> View:
        """The matrix of the chosen model, and the chosen cell."""
        chosen = self.picture.value - 1, self.caption.value - 1
        return similarity_view(self.scores, self.pictures, self.captions, self.model.value, chosen, self.sort.value)

    def export(self, path: str | Path) -> Path:
        """Writes the chosen model's matrix as CSV, whole or not at all; returns the path."""
        path = Path(path)
        atomic_write({path: similarity_csv(self.scores[self.model.value], self.captions)})
        return path

    def _export(self) -> None:
        try:
            self.said.value = page("message_soft", text=f"written: {self.export(self.file.value)}")
        except OSError as error:
            self.said.value = page("message", text=f"not written: {error}")
