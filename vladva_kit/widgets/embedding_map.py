"""Pictures and captions as points: near each other or in two clouds, before training and after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.analysis.flat_map import METHODS, FlatMap, flat_map
from vladva_kit.plots.space import LEFT_OVER, PALETTE, colors_of
from vladva_kit.plots.style import image_uri, thumbnail
from vladva_kit.widgets.base import WidgetBase, Work, controls
from vladva_kit.widgets.page import View, page

if TYPE_CHECKING:
    from PIL import Image

ONE_COLOR = "one color"
WIDTH, HEIGHT, EDGE, HOVERED = 620, 440, 34, 56  # pixels
PICTURED = 300  # a map of up to so many pairs carries its pictures for the hand that hovers


def map_view(
    places: FlatMap,
    pictures: Sequence[Image.Image | Path | bytes],
    captions: Sequence[str],
    field: Sequence[Any] | None = None,
    chosen: int = 0,
    heading: str = "",
    links: bool = True,
) -> View:
    """A map with links from each picture to its caption: `map_view(flat_map(images, texts), pictures, captions)`.

    `field` colors each pair by a value; the rarest of more than seven are gray. `chosen` is the pair shown beside.
    Raises ValueError where there are not as many places, pictures, captions and values.
    """
    counts = {len(places.images), len(places.texts), len(pictures), len(captions)}
    counts |= set() if field is None else {len(field)}
    if len(counts) != 1 or not 0 <= chosen < len(pictures):
        raise ValueError(f"{sorted(counts)} places, pictures, captions and values, pair {chosen} chosen; give as many")
    colors = colors_of(field)
    dots = _dots(places)
    values = () if field is None else map(str, field)
    shades = [colors.get(value, LEFT_OVER) for value in values] or [PALETTE[0]] * len(captions)
    pairs = [
        {"picture": picture, "text": text, "color": shade, "caption": caption, "number": number}
        for number, (picture, text, shade, caption) in enumerate(zip(*dots, shades, captions, strict=True))
    ]
    if len(pairs) <= PICTURED:
        for pair, picture in zip(pairs, pictures, strict=True):
            pair["src"] = image_uri(thumbnail(picture, HOVERED))
    mark = hashlib.sha256(repr((dots, heading, chosen)).encode()).hexdigest()[:10]
    return page(
        "map_view",
        heading=heading,
        pairs=pairs,
        legend=colors,
        left_over=LEFT_OVER if LEFT_OVER in shades else None,
        axes=places.axes,
        links=links,
        chosen=pairs[chosen],
        shown=image_uri(pictures[chosen]),
        mark=f"map{mark}",  # a page may hold several maps
        width=WIDTH,
        height=HEIGHT,
        edge=EDGE,
        hovered=HOVERED,
    )


def _dots(places: FlatMap) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Places as pixels, with one scale for both axes, so that distances on the page are those of the map."""
    both = np.concatenate([places.images, places.texts])
    low, high = both.min(0), both.max(0)
    room = np.array([WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE]) - 16
    scale = float((room / np.maximum(high - low, 1e-12)).min())
    middle = np.array([WIDTH, HEIGHT]) / 2
    pixels = middle + (both - (low + high) / 2) * scale * np.array([1, -1])  # a page counts downwards
    rounded = [(round(float(x), 1), round(float(y), 1)) for x, y in pixels]
    return rounded[: len(places.images)], rounded[len(places.images) :]


class EmbeddingMap(WidgetBase):
    """Maps of several models' embeddings, colored by any field, with the pictures behind the points.

        EmbeddingMap({"before": (images, texts), "after": (images2, texts2)}, pictures, captions, {"ground": grounds})

    Each model has embeddings (n, dim) of pictures and of captions, in one order, from anywhere. A map that was made
    is kept. UMAP runs in a thread; its cancel button goes back to PCA at once, and the map is kept if it comes.
    """

    def __init__(
        self,
        embeddings: Mapping[str, tuple[Any, Any]],
        pictures: Sequence[Image.Image | Path | bytes],
        captions: Sequence[str],
        fields: Mapping[str, Sequence[Any]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embeddings, self.pictures, self.captions = dict(embeddings), list(pictures), list(captions)
        self.fields, self.seed = dict(fields or {}), seed
        self.maps: dict[tuple[str, str], FlatMap] = {}
        self._making: tuple[str, str] | None = None
        self.work = Work()
        widgets = controls()
        self.model = widgets.ToggleButtons(options=list(self.embeddings), description="model")
        self.method = widgets.ToggleButtons(options=METHODS, description="map")
        options = [ONE_COLOR, *self.fields]
        self.color = widgets.Dropdown(options=options, value=options[min(1, len(self.fields))], description="color by")
        self.links = widgets.Checkbox(value=True, description="link picture and caption", indent=False)
        named = [(f"{number}: {text}", number - 1) for number, text in enumerate(self.captions, start=1)]
        self.pair = widgets.Dropdown(options=named, description="pair", layout=widgets.Layout(width="36em"))
        self.work.cancel.on_click(lambda _: setattr(self.method, "value", "PCA"))
        self.follow(self.model, self.method, self.color, self.links, self.pair)
        rows = [[self.model, self.method], [self.color, self.links], [self.pair]]
        self.box = widgets.VBox([*map(widgets.HBox, rows), self.work.box, self.view])
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Draws anew, and begins a map that takes a while, once."""
        super().refresh()
        key = self.model.value, self.method.value
        if self.method.value == "UMAP" and key not in self.maps and self._making != key:
            self._making = key
            self.work.start(self._projecting(key), 1, lambda: None, "UMAP is being made")

    def draw(self) -> View:
        """The map that the controls say; one that takes a while is announced."""
        key = self.model.value, self.method.value
        if key not in self.maps and self.method.value == "UMAP":
            return page("message_soft", text="The map is being made …")
        if key not in self.maps:
            self.maps[key] = flat_map(*self.embeddings[key[0]], key[1], self.seed)
        field = self.fields.get(self.color.value)
        heading = f"{key[0]}, {key[1]}"
        chosen = self.pair.value
        return map_view(self.maps[key], self.pictures, self.captions, field, chosen, heading, self.links.value)

    def _projecting(self, key: tuple[str, str]) -> Iterator[None]:
        try:
            self.maps[key] = flat_map(*self.embeddings[key[0]], key[1], self.seed)
        except ImportError as error:
            self.view.value = page("message", text=str(error))
            raise
        finally:
            self._making = None if self._making == key else self._making
        self.refresh()  # also after a cancel: whatever is chosen by now
        yield
