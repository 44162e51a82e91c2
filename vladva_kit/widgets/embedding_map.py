"""Images and captions as points on a plane: do pairs lie close together, before training and after?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from vladva_kit.analysis.space import PROJECTION_METHODS, Projection, project_2d
from vladva_kit.models.images import ImageLike
from vladva_kit.plots.space import category_colors
from vladva_kit.widgets.base import BackgroundTask, WidgetBase, controls
from vladva_kit.widgets.page import View, page

ONE_COLOR = "one color"
WIDTH, HEIGHT, EDGE = 620, 440, 34  # pixels
MAX_THUMBNAILS = 300  # a map of up to this many pairs shows the image of the point under the mouse


def map_view(
    points: Projection,
    images: Sequence[ImageLike],
    captions: Sequence[str],
    field: Sequence[Any] | None = None,
    selected: int = 0,
    heading: str = "",
    links: bool = True,
) -> View:
    """Show a map with a line from each image to its caption: `map_view(project_2d(images, texts), images, captions)`.

    `field` colors each pair by a value; of more than seven values, the rarest are gray. `selected` is the pair shown
    next to the map. Raises ValueError if there are not as many points, images, captions and values.
    """
    counts = {len(points.images), len(points.texts), len(images), len(captions)}
    counts |= set() if field is None else {len(field)}
    if len(counts) != 1 or not 0 <= selected < len(images):
        raise ValueError(f"{sorted(counts)} points, images, captions, values; pair {selected}: pass as many of each")
    colors, legend = category_colors(field, len(captions))
    image_dots, text_dots = _dots(points)
    digest = hashlib.sha256(repr((image_dots, text_dots, heading, selected)).encode()).hexdigest()[:10]
    map_id = f"map{digest}"  # a page may hold several maps
    pairs = list(zip(image_dots, text_dots, colors, captions, strict=True))
    return page(
        "map_view", heading=heading, pairs=pairs, images=images, selected=selected, links=links, legend=legend,
        hover=len(images) <= MAX_THUMBNAILS, axes=points.axes, size=(WIDTH, HEIGHT, EDGE), map_id=map_id,
    )  # fmt: skip


def _dots(points: Projection) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Convert points to pixels with one scale for both axes, so that distances are those of the map."""
    both = np.concatenate([points.images, points.texts])
    low, high = both.min(0), both.max(0)
    room = np.array([WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE]) - 16
    scale = float((room / np.maximum(high - low, 1e-12)).min())
    middle = np.array([WIDTH, HEIGHT]) / 2
    pixels = middle + (both - (low + high) / 2) * scale * np.array([1, -1])  # y counts downward in an SVG
    rounded = [(round(float(x), 1), round(float(y), 1)) for x, y in pixels]
    return rounded[: len(points.images)], rounded[len(points.images) :]


class EmbeddingMap(WidgetBase):
    """Maps of several models' embeddings, colored by any field; a point shows its image under the mouse.

        EmbeddingMap({"base": (image_vectors, text_vectors)}, images, captions, {"ground": grounds})

    Each model has embeddings (n, dim) of images and of captions, in one order, from any source. Each map is computed
    once. UMAP runs in a thread; its cancel button returns to PCA at once, and the map is kept when it is ready.
    """

    def __init__(
        self,
        embeddings: Mapping[str, tuple[Any, Any]],
        images: Sequence[ImageLike],
        captions: Sequence[str],
        fields: Mapping[str, Sequence[Any]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embeddings, self.images, self.captions = dict(embeddings), list(images), list(captions)
        self.fields, self.seed = dict(fields or {}), seed
        self.maps: dict[tuple[str, str], Projection] = {}
        self._running: tuple[str, str] | None = None
        self.work = BackgroundTask()
        widgets = controls()
        self.model = widgets.ToggleButtons(options=list(self.embeddings), description="model")
        self.method = widgets.ToggleButtons(options=PROJECTION_METHODS, description="map")
        options = [ONE_COLOR, *self.fields]
        self.color = widgets.Dropdown(options=options, value=options[min(1, len(self.fields))], description="color by")
        self.links = widgets.Checkbox(value=True, description="link image and caption", indent=False)
        pairs = [(f"{number}: {text}", number - 1) for number, text in enumerate(self.captions, start=1)]
        self.pair = widgets.Dropdown(options=pairs, description="pair", layout=widgets.Layout(width="36em"))
        self.work.cancel.on_click(self.handler(lambda: setattr(self.method, "value", "PCA")))
        self.redraw_on(self.model, self.method, self.color, self.links, self.pair)
        self._assemble([self.model, self.method], [self.color, self.links], [self.pair])
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Redraw, and start a UMAP that is not computed yet."""
        super().refresh()
        key = self.model.value, self.method.value
        if self.method.value == "UMAP" and key not in self.maps and self._running != key:
            self._running = key
            self.work.start([partial(self._project, key)], "computing UMAP")

    def draw(self) -> View:
        """Show the chosen map; the last one stays while UMAP runs."""
        model, method = key = self.model.value, self.method.value
        if method == "UMAP" and key not in self.maps:
            return View(self.view.value)
        if key not in self.maps:
            self.maps[key] = project_2d(*self.embeddings[model], method, self.seed)
        field, heading = self.fields.get(self.color.value), f"{model}, {method}"
        return map_view(self.maps[key], self.images, self.captions, field, self.pair.value, heading, self.links.value)

    def _project(self, key: tuple[str, str]) -> None:
        try:
            self.maps[key] = project_2d(*self.embeddings[key[0]], key[1], self.seed)
        finally:
            self._running = None if self._running == key else self._running
        self.refresh()  # also after a cancel: show what is chosen by now
