"""Where the summary token looks: its attention over the image, by layer and head, with the adapter off and on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import numpy as np

from vladva_kit.analysis import encoder_crop, probe_images
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.identity import image_key
from vladva_kit.models.images import ImageLike
from vladva_kit.plots import attention_overlay
from vladva_kit.plots.style import figure_uri
from vladva_kit.widgets.base import BackgroundTask, ImagePicker, WidgetBase, controls
from vladva_kit.widgets.cached_embedder import model_turn
from vladva_kit.widgets.page import View, page

MEAN = 0  # slider value for the mean over all layers or heads; layers and heads count from 1
BEFORE, AFTER = "before", "after"
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "center", "right")


def attention_view(image: ImageLike, maps: Mapping[str, Any], layer: int = MEAN, head: int = MEAN) -> View:
    """Show the attention of one layer and head over the image, one panel per state, on one scale.

        attention_view(image, {"before": probe.maps[0]}, layer=3, head=1)      # 0: mean over all

    Each of `maps` is (layers, heads, rows, columns) in fractions of the attention, as `SummaryProbe.maps` has it for
    one image. Raises ValueError for other shapes, or for a layer or head that does not exist.
    """
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in maps.items()}
    shapes = {values.shape[:2] for values in arrays.values()}
    if len(shapes) != 1 or any(values.ndim != 4 for values in arrays.values()):
        text = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
        raise ValueError(f"maps of shapes {text or 'none'}; each must be (layers, heads, rows, columns), of one model")
    layers, heads = shapes.pop()
    parts = []
    for name, number, most in (("layer", layer, layers), ("head", head, heads)):
        if not 0 <= number <= most:
            raise ValueError(f"{name} {number}: there are 1 to {most}, and 0 is the mean over all")
        parts.append(f"mean of {most} {name}s" if number == MEAN else f"{name} {number} of {most}")
    selection = ", ".join(parts)
    grids = {name: _select(values, layer, head) for name, values in arrays.items()}
    rows = []
    for name, grid in grids.items():
        peak = f"{_position_text(grid)} ({grid.max():.1%})"
        rows.append({"name": name, "on_image": f"{grid.sum():.1%}", "spread": f"{_spread(grid):.0%}", "peak": peak})
    figure = attention_overlay(image, grids, f"Where the summary token looks: {selection}")
    return page("attention_view", figure=figure_uri(figure, dpi=110), selection=selection, rows=rows)


def _select(values: np.ndarray, layer: int, head: int) -> np.ndarray:
    """Return (rows, columns) of one layer and head, or means."""
    layers, heads = (slice(None) if number == MEAN else slice(number - 1, number) for number in (layer, head))
    return values[layers, heads].mean((0, 1))


def _spread(grid: np.ndarray) -> float:
    """Return the perplexity of the attention within the image as a fraction of its patches."""
    shares = grid.ravel() / max(float(grid.sum()), 1e-12)
    return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum()) / grid.size)


def _position_text(grid: np.ndarray) -> str:
    """Describe where the patch with the most attention is: "upper left"."""
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    return f"{ROWS[3 * row // grid.shape[0]]} {COLUMNS[3 * column // grid.shape[1]]}"


class AttentionView(WidgetBase):
    """Choose an image, a layer and a head; see the summary token's attention: `AttentionView(embedder, images)`.

    An image can also be uploaded. Each runs without and with the adapter, in a thread that `work.wait()` joins. The
    attention of all layers and heads is kept, so the sliders need no forward pass.
    """

    def __init__(self, embedder: Embedder, images: Sequence[ImageLike]) -> None:
        super().__init__()
        if not len(images):
            raise ValueError("no image to look at: pass at least one")
        self.embedder = embedder
        self.maps: dict[Any, dict[str, np.ndarray]] = {}  # by image key
        self.work = BackgroundTask()
        widgets = controls()
        self.picker = ImagePicker(self, images, "look at", self._read)
        self.layer = widgets.IntSlider(min=MEAN, max=MEAN, description="layer")
        self.head = widgets.IntSlider(min=MEAN, max=MEAN, description="head")
        hint = widgets.HTML(value=page("hint", text="0: mean over all"))
        self.redraw_on(self.layer, self.head)
        self._assemble([self.picker.menu, self.picker.upload], [self.layer, self.head, hint])
        self._read()

    def _read(self, *_: object) -> None:
        """Show the chosen image, and read its attention if that is not known yet."""
        self.refresh()
        with self.reporting():
            image = cast(ImageLike, self.picker.image)
            key = image_key(image)
            if key not in self.maps:
                states = (BEFORE,) if self.embedder.config is None else (BEFORE, AFTER)
                maps: dict[str, np.ndarray] = {}
                steps = [partial(self._read_state, name, image, maps) for name in states]
                self.work.start([*steps, partial(self._keep, key, maps)], "reading the attention")

    def _read_state(self, name: str, image: ImageLike, maps: dict[str, np.ndarray]) -> None:
        """Run one forward pass. Raises ValueError if the family's image tokens form no grid over the image."""
        with model_turn(), self.embedder.base() if name == BEFORE else nullcontext():
            maps[name] = probe_images(self.embedder, [image], attention=True, k=1).maps[0]

    def _keep(self, key: Any, maps: dict[str, np.ndarray]) -> None:
        self.maps[key] = maps
        self.layer.max, self.head.max = next(iter(maps.values())).shape[:2]
        self.refresh()

    def draw(self) -> View:
        """Show the attention of the chosen layer and head, or the image alone before it is read."""
        image = cast(ImageLike, self.picker.image)
        maps = self.maps.get(image_key(image))
        if maps is None:
            return page("image", image=image)
        return attention_view(encoder_crop(self.embedder.lvlm, image), maps, self.layer.value, self.head.value)
