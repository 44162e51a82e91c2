"""Compose your own Winoground case: choose two objects and their relation; every model scores the two scenes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vladva_kit.emoji_world.captions import pair_caption
from vladva_kit.emoji_world.cases import sugarcrepe_captions
from vladva_kit.emoji_world.drawings import native_colors, nouns_in_style
from vladva_kit.emoji_world.nouns import COLORS, GROUNDS, SIZES, STYLES
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import LAYOUTS, WORDS, Scene, Thing, fits, swapped
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.evaluation.encoding import EncoderOrScorer
from vladva_kit.evaluation.sugarcrepe import CATEGORIES
from vladva_kit.models.images import ImageLike
from vladva_kit.plots.evaluation import winoground_correct
from vladva_kit.widgets.base import BackgroundTask, WidgetBase, controls
from vladva_kit.widgets.cached_embedder import Cached, with_caches
from vladva_kit.widgets.case_views import category_label, winoground_view
from vladva_kit.widgets.page import View, page

RELATIONS = {relation: (layout, i == 1) for layout, pair in LAYOUTS.items() for i, relation in enumerate(pair)}
# The fields that the two objects swap to make the second scene; without a field they swap positions.
SWAPS = {"positions": (), "objects": ("noun",), "colors": ("color",), "sizes": ("size",)}
NATURAL_COLORS = "natural colors"
SIDE = 288  # pixels of a scene; image encoders resize it
DEFAULTS = (("dog", "blue"), ("house", "purple"))


@dataclass(frozen=True)
class ComposedCase:
    """Two scenes that differ by one swap, their captions, and hard negatives of the first scene."""

    scenes: tuple[Scene, Scene]
    captions: tuple[str, str]
    negatives: tuple[tuple[str, str, str], ...]  # (category, true caption, false caption)


def scene_of(first: Thing, relation: str, second: Thing, ground: str, style: int = 0, seed: int = 0) -> Scene:
    """Build the scene that a relation describes: `scene_of(Thing("dog"), "above", Thing("cat"), "grass")`.

    Raises ValueError for an unknown relation, or if the objects do not fit; the message says what to change.
    """
    if relation not in RELATIONS:
        raise ValueError(f"unknown relation '{relation}': choose from {', '.join(RELATIONS)}")
    for thing in (first, second):
        if thing.noun not in nouns_in_style(style):
            raise ValueError(f"style '{STYLES[style]}' has no '{thing.noun}': choose another style or object")
    layout, is_converse = RELATIONS[relation]
    scene = Scene((second, first) if is_converse else (first, second), layout, ground, style, seed)
    if not fits(scene):
        raise ValueError(_misfit_text(scene))
    return scene


def _misfit_text(scene: Scene) -> str:
    first, second = scene.things
    if first.noun == second.noun:
        return f"both objects are '{first.noun}': choose two different objects"
    for thing in scene.things:
        if thing.color in native_colors(thing.noun):
            return f"'{thing.noun}' is naturally {thing.color} in some style: choose another color, or natural colors"
    if scene.layout == "stack" and max(first.count, second.count) > 1:
        return "only single objects can stand in front of each other: set both counts to 1"
    if scene.layout == "stack":
        return f"the {second.noun} is behind, where a small object would be hidden: make it big"
    return f"the {first.noun} and the {second.noun} are too large for one image: make one smaller, or reduce its count"


def compose(scene: Scene, swap: str, seed: int = 0) -> ComposedCase:
    """Build a Winoground case and hard negatives from a scene of two objects: `compose(scene, "colors")`.

    Both scenes share the random seed, so that they differ by the swap only. Raises ValueError if the swap changes
    nothing that a caption says, or if the swapped scene does not fit.
    """
    if swap not in SWAPS:
        raise ValueError(f"unknown swap '{swap}': choose from {', '.join(SWAPS)}")
    other = swapped(scene, *SWAPS[swap])
    with_size = swap == "sizes"
    captions = pair_caption(scene, 0, 1, with_size), pair_caption(other, 0, 1, with_size)
    if is_true(captions[1], scene):
        raise ValueError(f"swapping the {swap} does not change the scene: choose two different {swap}")
    if not fits(other):
        raise ValueError(f"after swapping the {swap}, {_misfit_text(other)}")
    texts = {kind: sugarcrepe_captions(kind, scene, random.Random(f"{kind} {seed}")) for kind in CATEGORIES}
    negatives = tuple((kind, *pair) for kind, pair in texts.items() if pair is not None)
    return ComposedCase((scene, other), captions, negatives)


def scene_view(
    case: ComposedCase,
    images: Sequence[ImageLike],
    scores: Mapping[str, Sequence[Sequence[float]]],
    margins: Mapping[str, Sequence[float]],
) -> View:
    """Show the case as `winoground_view` does, and the negatives below: `scene_view(case, images, grids, margins)`.

    `scores[model][i][c]` is (2, 2); `margins[model]` has, for each negative, the first image's similarity with the
    true caption minus that with the false one.
    """
    above = winoground_view(images, case.captions, scores, "Your own Winoground case")
    rows = [(category_label(category), true, false) for category, true, false in case.negatives]
    return View(above + page("scene_negatives", rows=rows, margins=margins))


class SceneComposer(WidgetBase):
    """Choose two objects and their relation; see the scene, its swapped counterpart, and each model's scores.

        SceneComposer({"emoji-clip": vk.load_baseline(), "base": baseline, "fine-tuned": embedder})

    The scenes are drawn at once; the scores follow from a thread that `work.wait()` joins. Scenes and captions that a
    model has encoded before are not encoded again.
    """

    def __init__(self, models: Mapping[str, EncoderOrScorer | Cached]) -> None:
        super().__init__()
        self.models = with_caches(models)
        self.work = BackgroundTask()
        self._needed: tuple[list[ImageLike], list[str]] | None = None  # images and texts of the current case
        widgets = controls()
        layout = widgets.Layout(width="205px")  # four fit next to each other
        menu, slider = partial(widgets.Dropdown, layout=layout), partial(widgets.IntSlider, layout=layout)
        self.things = [
            {
                "noun": menu(options=sorted(WORDS), value=noun, description=f"object {number}"),
                "color": menu(options=[NATURAL_COLORS, *COLORS], value=color, description="color"),
                "size": menu(options=list(SIZES), value="big", description="size"),
                "count": slider(value=1, min=1, max=3, description="count"),
            }
            for number, (noun, color) in enumerate(DEFAULTS, start=1)
        ]
        self.relation = menu(options=list(RELATIONS), description="relation")
        self.ground = menu(options=GROUNDS, description="ground")
        self.style = menu(options=[(name, index) for index, name in enumerate(STYLES)], description="style")
        self.swap = menu(options=list(SWAPS), description="swap")
        self.seed = widgets.IntSlider(min=0, max=99, description="random seed", continuous_update=False)
        first, second = (list(thing.values()) for thing in self.things)
        rows = [first, [self.relation, self.seed], second, [self.ground, self.style, self.swap]]
        self.swap.observe(self.handler(self._choose_swap), "value")
        self.redraw_on(*(control for row in rows for control in row if control is not self.swap))
        self._assemble(*rows)
        self.refresh()

    def _choose_swap(self) -> None:
        """Redraw; sizes that are to be swapped are made different first."""
        first, second = (thing["size"] for thing in self.things)
        with self.batched():
            if self.swap.value == "sizes" and first.value == second.value:
                second.value = next(size for size in SIZES if size != first.value)

    def scene(self) -> Scene:
        """Return the chosen scene. Raises ValueError if it does not fit."""
        first, second = map(_thing, self.things)
        return scene_of(first, self.relation.value, second, self.ground.value, self.style.value, self.seed.value)

    def refresh(self, *_: object) -> None:
        """Draw the chosen scenes, and score them with the models that have not encoded them yet."""
        super().refresh()
        needed, redraw = self._needed, super().refresh  # read once: the background thread draws too
        if needed is None:
            return
        with self.reporting():
            missing = [model for model in self.models.values() if not model.has(*needed)]
            steps = [step for model in missing for step in [*model.encoding_steps(*needed), redraw]]
            if steps:
                self.work.start(steps, "scoring")

    def correct(self) -> dict[str, bool]:
        """Tell which models score both true pairs above both false ones, as Winoground's group score does."""
        case = compose(self.scene(), self.swap.value, self.seed.value)
        images = [render(scene, SIDE) for scene in case.scenes]
        grids = {name: model.similarity(images, case.captions) for name, model in self.models.items()}
        return {name: winoground_correct(grid)["group"] for name, grid in grids.items()}

    def draw(self) -> View:
        """Show both scenes, their captions, the negatives, and the scores of the models that have encoded them."""
        try:
            case = compose(self.scene(), self.swap.value, self.seed.value)
        except ValueError:
            self._needed = None
            raise
        images = [render(scene, SIDE) for scene in case.scenes]
        negatives = [text for _, true, false in case.negatives for text in (true, false)]
        needed: tuple[list[ImageLike], list[str]] = [*images], [*case.captions, *negatives]
        self._needed = needed
        ready = {name: model for name, model in self.models.items() if model.has(*needed)}
        grids = {name: model.similarity(images, case.captions).tolist() for name, model in ready.items()}
        pairs = {name: model.similarity(images[:1], negatives).reshape(-1, 2) for name, model in ready.items()}
        return scene_view(case, images, grids, {name: pair[:, 0] - pair[:, 1] for name, pair in pairs.items()})


def _thing(choice: Mapping[str, Any]) -> Thing:
    color = None if choice["color"].value == NATURAL_COLORS else choice["color"].value
    return Thing(choice["noun"].value, choice["count"].value, color, choice["size"].value)
