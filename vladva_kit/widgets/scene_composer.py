"""Make your own Winoground: choose what is where; it is drawn, captions are written, every model scores them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from vladva_kit.emoji_world.captions import pair_caption
from vladva_kit.emoji_world.cases import sugarcrepe_case
from vladva_kit.emoji_world.drawings import native_colors
from vladva_kit.emoji_world.nouns import COLORS, GROUNDS, SIZES, STYLES
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import LAYOUTS, WORDS, Scene, Thing, fits, swapped
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.evaluation import ImageTextEncoder
from vladva_kit.widgets.base import WidgetBase, Work, controls
from vladva_kit.widgets.cached_embedder import CachedEmbedder, cached_embedder
from vladva_kit.widgets.page import View, page
from vladva_kit.widgets.winoground_probe import winoground_view

if TYPE_CHECKING:
    from PIL import Image

RELATIONS = tuple(relation for pair in LAYOUTS.values() for relation in pair)
# What is exchanged between the two things to make the second picture, by Winoground's kinds of cases.
EXCHANGES = {"places": (), "things": ("noun",), "colors": ("color",), "sizes": ("size",)}
NEGATIVES = ("replace_obj", "replace_att", "replace_rel", "add_obj", "add_att", "swap_obj", "swap_att")
NATIVE_COLORS = "own colors"
SIDE = 288  # pixels; the towers shrink it to their own size


@dataclass(frozen=True)
class Composed:
    """Two scenes that differ in one exchange, their captions, and false captions of the first scene."""

    scenes: tuple[Scene, Scene]
    captions: tuple[str, str]
    negatives: tuple[tuple[str, str, str], ...]  # (kind, true caption, false caption)


def scene_of(first: Thing, relation: str, second: Thing, ground: str, style: int = 0, seed: int = 0) -> Scene:
    """The scene of such words: `scene_of(Thing("dog"), "above", Thing("cat"), "grass")`.

    Raises ValueError for a relation that the world lacks, and for things that do not fit, with what to change.
    """
    for layout, (forward, backward) in LAYOUTS.items():
        if relation in (forward, backward):
            things = (first, second) if relation == forward else (second, first)
            scene = Scene(things, layout, ground, style, seed)
            if not fits(scene):
                raise ValueError(_why_not(scene))
            return scene
    raise ValueError(f"no relation '{relation}'; there are {', '.join(RELATIONS)}")


def _why_not(scene: Scene) -> str:
    first, second = scene.things
    if first.noun == second.noun:
        return f"two kinds of {first.noun} cannot be told apart: choose two different things"
    for thing in scene.things:
        if thing.color in native_colors(thing.noun):
            return f"a {thing.noun} is {thing.color} by itself in some drawing: choose another color for it, or none"
    if scene.layout == "stack" and max(first.count, second.count) > 1:
        return "only single things stand in front of each other: set both counts to 1"
    if scene.layout == "stack":
        return f"the {second.noun} is behind, and small things vanish there: make it big"
    return f"the {first.noun} and the {second.noun} are too large for one picture: make one smaller, or fewer"


def composed(scene: Scene, exchange: str, seed: int = 0) -> Composed:
    """A Winoground case and SugarCrepe's negatives of a scene of two things: `composed(scene, "colors")`.

    Raises ValueError where the exchange changes nothing that a caption says, or where its scene does not fit.
    """
    if exchange not in EXCHANGES:
        raise ValueError(f"no exchange of '{exchange}'; there are {', '.join(EXCHANGES)}")
    other = replace(swapped(scene, *EXCHANGES[exchange]), seed=scene.seed + 1)
    sized = exchange == "sizes"
    captions = pair_caption(scene, 0, 1, sized), pair_caption(other, 0, 1, sized)
    if is_true(captions[1], scene):
        raise ValueError(f"with their {exchange} exchanged the picture is the same: give the two different {exchange}")
    if not fits(other):
        raise ValueError(f"with their {exchange} exchanged: {_why_not(other)}")
    negatives = []
    for kind in NEGATIVES:
        made = sugarcrepe_case(kind, scene, random.Random(f"{kind} {seed}"))
        if made is not None:
            negatives.append((kind, *made))
    return Composed((scene, other), captions, tuple(negatives))


def scene_view(
    case: Composed,
    pictures: Sequence[Image.Image],
    scores: Mapping[str, Sequence[Sequence[float]]],
    negative_scores: Mapping[str, Sequence[tuple[float, float]]],
    unseen: Collection[str] = (),
) -> View:
    """The case as `winoground_view` shows it, with the negatives below: `scene_view(case, pictures, grids, negatives)`.

    `scores[model][i][c]` (2, 2); `negative_scores[model]`: for each negative, the first picture's similarity with the
    true caption and with the false one.
    """
    above = winoground_view(pictures, case.captions, scores, "Your own Winoground case", unseen)
    rows = []
    for place, (kind, true, false) in enumerate(case.negatives):
        margins = [pairs[place][0] - pairs[place][1] for pairs in negative_scores.values()]
        cells = [{"text": f"{margin:+.3f}".replace("-", "−"), "right": margin > 0} for margin in margins]
        rows.append({"kind": kind.replace("_", " "), "true": true, "false": false, "cells": cells})
    return View(above + page("scene_negatives", rows=rows, models=list(negative_scores)))


class SceneComposer(WidgetBase):
    """Choose two things and how they lie; see the picture, its opposite, and what each model makes of both.

        SceneComposer({"emoji-clip": vk.load_baseline(), "base": baseline, "fine-tuned": embedder})

    The pictures are drawn at once; each model's scores follow when it has looked at them, in a thread with a bar that
    can be cancelled (`work.wait()` joins it). Pictures and captions that a model has met are not encoded again. What
    does not fit is said, with what to change.
    """

    def __init__(self, models: Mapping[str, ImageTextEncoder | CachedEmbedder]) -> None:
        super().__init__()
        self.models = cached_embedder(models)
        self.work = Work()
        self._asked: tuple[list[Image.Image], list[str]] | None = None  # what the models are to look at
        widgets = controls()
        colors = [NATIVE_COLORS, *COLORS]
        fourth = {"width": "205px"}  # four fit beside each other
        choice = partial(widgets.Dropdown, layout=fourth)
        self.things = []
        for number, (noun, color) in enumerate((("dog", "blue"), ("house", "purple")), start=1):
            self.things.append(
                {
                    "noun": choice(options=sorted(WORDS), value=noun, description=f"thing {number}"),
                    "color": choice(options=colors, value=color, description="color"),
                    "size": choice(options=list(SIZES), value="big", description="size"),
                    "count": widgets.IntSlider(value=1, min=1, max=3, description="count", layout=fourth),
                }
            )
        self.relation = choice(options=RELATIONS, description="lies")
        self.ground = choice(options=GROUNDS, description="ground")
        self.style = choice(options=[(name, place) for place, name in enumerate(STYLES)], description="style")
        self.exchange = choice(options=list(EXCHANGES), description="exchange")
        self.seed = widgets.IntSlider(min=0, max=99, description="liberties", continuous_update=False)
        rows = [[*self.things[0].values()], [self.relation, self.seed], [*self.things[1].values()]]
        rows.append([self.ground, self.style, self.exchange])
        self.follow(*(control for row in rows for control in row))
        self.box = widgets.VBox([*map(widgets.HBox, rows), self.work.box, self.view])
        self.refresh()

    def scene(self) -> Scene:
        """The scene that the controls say. Raises ValueError for what does not fit."""
        first, second = map(_thing, self.things)
        return scene_of(first, self.relation.value, second, self.ground.value, self.style.value, self.seed.value)

    def refresh(self, *_: object) -> None:
        """Draws what was chosen, and has those models look at it that have not."""
        super().refresh()
        asked = self._asked  # once: the thread at work draws too
        lacking = [memory for memory in self.models.values() if asked and not memory.knows(*asked)]
        if asked and lacking:
            self.work.start(self._looking(lacking, *asked), 2 * len(lacking), lambda: None, "scoring")

    def _looking(
        self, models: Sequence[CachedEmbedder], pictures: Sequence[Any], texts: Sequence[str]
    ) -> Iterator[None]:
        for memory in models:
            memory.encode_image(pictures)
            yield
            memory.encode_text(texts)
            super().refresh()  # this model's scores join the others'
            yield

    def draw(self) -> View:
        """Both pictures, both captions, the negatives, and the scores of the models that have looked at them."""
        try:
            case = composed(self.scene(), self.exchange.value, self.seed.value)
        except ValueError:
            self._asked = None  # there is nothing to look at; why not is said
            raise
        pictures = [render(scene, SIDE) for scene in case.scenes]
        negatives = [text for _, true, false in case.negatives for text in (true, false)]
        asked = self._asked = pictures, [*case.captions, *negatives]
        ready = {name: memory for name, memory in self.models.items() if memory.knows(*asked)}
        grids = {name: memory.similarity(pictures, case.captions).tolist() for name, memory in ready.items()}
        margins = {name: _pairs(memory, pictures[0], negatives) for name, memory in ready.items()}
        return scene_view(case, pictures, grids, margins)


def _pairs(memory: CachedEmbedder, picture: Any, negatives: Sequence[str]) -> list[tuple[float, float]]:
    """The picture's similarity with each true caption and with the false one that follows it."""
    if not negatives:
        return []
    scores = memory.similarity([picture], negatives)[0].tolist()
    return list(zip(scores[::2], scores[1::2], strict=True))


def _thing(chosen: Mapping[str, Any]) -> Thing:
    color = None if chosen["color"].value == NATIVE_COLORS else chosen["color"].value
    return Thing(chosen["noun"].value, chosen["count"].value, color, chosen["size"].value)
