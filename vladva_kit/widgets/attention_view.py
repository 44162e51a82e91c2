"""Where the summary token looks: over the picture, by layer and head, with the adapter off and on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.analysis import read_images, seen_part
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.plots.attention import attention_overlay
from vladva_kit.plots.style import figure_uri
from vladva_kit.widgets.base import WidgetBase, Work, clear_upload, controls, uploaded
from vladva_kit.widgets.cached_embedder import ModelBusy, model_turn
from vladva_kit.widgets.page import View, page

if TYPE_CHECKING:
    from PIL import Image

EVERY = 0  # a slider's first place: the mean over all layers, or heads; the others count from 1
BEFORE, AFTER = "before", "after"
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "center", "right")


def attention_view(
    picture: Image.Image | Path | bytes, maps: Mapping[str, Any], layer: int = EVERY, head: int = EVERY
) -> View:
    """The attention of one layer and head over the picture, a panel a state, one scale:

        attention_view(picture, {"before": reading.maps[0]}, layer=3, head=1)      # 0: the mean over all

    Each of `maps` is (layers, heads, rows, columns), parts of the attention, as `SummaryReading.maps` has it for one
    picture. Raises ValueError for other shapes, or for a layer or head that is not there.
    """
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in maps.items()}
    shapes = {values.shape[:2] for values in arrays.values()}
    if len(shapes) != 1 or any(values.ndim != 4 for values in arrays.values()):
        given = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
        raise ValueError(f"maps of shapes {given or 'none'}; each must be (layers, heads, rows, columns), of one model")
    layers, heads = shapes.pop()
    for name, value, most in (("layer", layer, layers), ("head", head, heads)):
        if not 0 <= value <= most:
            raise ValueError(f"{name} {value}: there are 1 to {most}, and 0 is the mean over all")
    chosen = {name: _chosen(values, layer, head) for name, values in arrays.items()}
    where = f"{_named('layer', layer, layers)}, {_named('head', head, heads)}"
    rows = [
        {
            "name": name,
            "picture": f"{grid.sum():.1%}",
            "spread": f"{_spread(grid):.0%}",
            "most": f"{_words_for(grid)} ({grid.max():.1%})",
        }
        for name, grid in chosen.items()
    ]
    figure = attention_overlay(picture, chosen, f"Where the summary token looks: {where}")
    seen = "; ".join(f"{row['name']} most at the {row['most']}" for row in rows)
    return page("attention_view", figure=figure_uri(figure, dpi=110), where=where, seen=seen, rows=rows)


def _chosen(values: np.ndarray, layer: int, head: int) -> np.ndarray:
    """(rows, columns) of one layer and head, or means."""
    layers = values if layer == EVERY else values[layer - 1 : layer]
    return (layers if head == EVERY else layers[:, head - 1 : head]).mean((0, 1))


def _named(what: str, number: int, most: int) -> str:
    return f"mean of {most} {what}s" if number == EVERY else f"{what} {number} of {most}"


def _spread(grid: np.ndarray) -> float:
    """Over how much of the patches the attention is spread: the perplexity of its shares, 0 to 1."""
    shares = grid.ravel() / max(float(grid.sum()), 1e-12)
    return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum()) / grid.size)


def _words_for(grid: np.ndarray) -> str:
    """Where the densest patch lies, in words: "upper left"."""
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    return f"{ROWS[3 * row // grid.shape[0]]} {COLUMNS[3 * column // grid.shape[1]]}"


def maps_in_turn(embedder: Embedder, picture: Image.Image | Path | bytes, maps: dict[str, np.ndarray]) -> Iterator[str]:
    """One forward without the adapter, one with it where there is one; puts (layers, heads, rows, columns) in `maps`.

    Raises ValueError where the family's image tokens are no grid over the picture.
    """
    for name in (BEFORE, AFTER) if embedder.record is not None else (BEFORE,):
        with model_turn():
            if name == BEFORE:
                with embedder.base():
                    reading = read_images(embedder, [picture], attention=True, k=1)
            else:
                reading = read_images(embedder, [picture], attention=True, k=1)
        maps[name] = reading.maps[0]
        yield name


class AttentionView(WidgetBase):
    """Sliders for layer and head over a picture: where does the summary token look, before training and after?

        AttentionView(embedder, pictures)       # pictures: to choose from; or upload one

    Each picture runs once without the adapter and once with it, in a thread; all layers and heads are kept, so the
    sliders ask the model for nothing. `work.wait()` joins the thread.
    """

    def __init__(self, embedder: Embedder, pictures: Sequence[Image.Image | Path | bytes]) -> None:
        super().__init__()
        if not len(pictures):
            raise ValueError("no picture to look at: give at least one")
        self.embedder, self.pictures = embedder, list(pictures)
        self.maps: dict[Any, dict[str, np.ndarray]] = {}  # by the picture's number, or an upload's content
        self.work = Work()
        widgets = controls()
        options = [(f"picture {number}", number - 1) for number in range(1, len(self.pictures) + 1)]
        self.picture = widgets.Dropdown(options=options, description="look at")
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your picture")
        self.layer = widgets.IntSlider(min=EVERY, max=EVERY, description="layer")
        self.head = widgets.IntSlider(min=EVERY, max=EVERY, description="head")
        self.note = widgets.HTML(value=page("message_soft", text="0: the mean over all"))
        self.follow(self.layer, self.head)
        self.picture.observe(self._choose, "value")
        self.upload.observe(self._another, "value")
        rows = [[self.picture, self.upload], [self.layer, self.head, self.note]]
        self.box = widgets.VBox([*map(widgets.HBox, rows), self.work.box, self.view])
        self._another()

    def _looked_at(self) -> tuple[Any, Any]:
        """What a picture is known by, and the picture: the one uploaded last, else the one chosen."""
        own = uploaded(self.upload.value)
        if own is not None:
            return own.tobytes(), own
        return self.picture.value, self.pictures[self.picture.value]

    def _choose(self, *_: object) -> None:
        """What was given last is what is looked at."""
        if self.upload.value:
            clear_upload(self.upload)  # which looks at another picture
        else:
            self._another()

    def _another(self, *_: object) -> None:
        """Runs a picture that was not run yet, and shows it."""
        try:
            key, picture = self._looked_at()
        except ValueError:  # a file that is no picture: the view says so
            self.refresh()
            return
        if key in self.maps:
            self.refresh()
            return
        self.view.value = page("message_soft", text="The model is looking at the picture …")
        maps: dict[str, np.ndarray] = {}
        states = 1 if self.embedder.record is None else 2
        self.work.start(self._looking(picture, maps), states, lambda: self._keep(key, maps), "looking")

    def _looking(self, picture: Any, maps: dict[str, np.ndarray]) -> Iterator[str]:
        try:
            yield from maps_in_turn(self.embedder, picture, maps)
        except (ValueError, ModelBusy) as error:
            self.view.value = page("message", text=str(error))
            raise

    def _keep(self, key: Any, maps: dict[str, np.ndarray]) -> None:
        self.maps[key] = maps
        self.layer.max, self.head.max = next(iter(maps.values())).shape[:2]
        self.refresh()

    def draw(self) -> View:
        """The picture with the chosen layer's and head's attention."""
        key, picture = self._looked_at()
        if key not in self.maps:
            return page("message_soft", text="not looked at yet: choose the picture again")
        return attention_view(seen_part(self.embedder.lvlm, picture), self.maps[key], self.layer.value, self.head.value)
