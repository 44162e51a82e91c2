"""Cases that ask for composition: two scenes that differ by a swap, and true captions beside false ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vladva_kit.emoji_world.captions import pair_caption, phrase
from vladva_kit.emoji_world.drawings import native_colors
from vladva_kit.emoji_world.nouns import COLORS, SEEN_STYLES, SIZES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import LAYOUTS, WORDS, Scene, Thing, fits, sample_scene, swapped
from vladva_kit.emoji_world.truth import is_true

PICTURE_SIZE = 160  # pixels; the towers shrink it to their own size
SUGARCREPE_EACH = 60
STYLE_FOLDERS = {"": SEEN_STYLES, "unseen_style": (UNSEEN_STYLE,)}  # folder within a benchmark -> styles


@dataclass(frozen=True)
class SwapCase:
    """Two scenes and the two captions that tell them apart by the order of the same words."""

    kind: str
    scenes: tuple[Scene, Scene]
    captions: tuple[str, str]


def swap_cases(rng: random.Random, kind: str, styles: tuple[int, ...] = SEEN_STYLES) -> Iterator[SwapCase]:
    """Endless Winoground-like cases of a kind: "object", "color", "size" or "relation".

    next(swap_cases(random.Random(0), "color")).captions
    # ("a red dog to the left of a blue cat", "a blue dog to the left of a red cat")
    """
    fields = {"object": ("noun",), "color": ("color",), "size": ("size",), "relation": ()}[kind]
    while True:
        scene = sample_scene(rng, 2, styles, colored=1.0 if kind in ("color", "object") else None)
        first, second = scene.things
        other = replace(swapped(scene, *fields), seed=rng.randrange(2**31))
        if first.count != second.count or any(getattr(first, f) == getattr(second, f) for f in fields):
            continue
        if kind == "object" and first.color == second.color:
            continue
        order = rng.choice([(0, 1), (1, 0)])
        captions = tuple(pair_caption(one, *order, kind == "size") for one in (scene, other))
        if (
            fits(other)
            and not is_true(captions[1], scene)
            and sorted(captions[0].split()) == sorted(captions[1].split())
        ):
            yield SwapCase(kind, (scene, other), captions)


def sugarcrepe_case(category: str, scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """A true and a false caption of a scene of two things that differ as the category says; None where they can't.

    sugarcrepe_case("swap_att", scene, rng)   # ("a red dog above a blue cat", "a blue dog above a red cat")
    """
    order = rng.choice([(0, 1), (1, 0)])
    sized = category.endswith("att") and rng.random() < 0.4
    true = pair_caption(scene, *order, sized)
    false = _FALSE[category](scene, order, sized, rng)
    return (true, false) if false and not is_true(false, scene) else None


def _replaced(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=tuple(thing if i == index else old for i, old in enumerate(scene.things)))


def _absent(scene: Scene, rng: random.Random) -> str:
    return rng.choice([word for word in WORDS if all(word != thing.noun for thing in scene.things)])


def _replace_obj(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str:
    index = rng.randrange(2)
    other = replace(scene.things[index], noun=_absent(scene, rng))
    return pair_caption(_replaced(scene, index, other), *order, sized)


def _replace_att(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str | None:
    colored = [index for index in (0, 1) if scene.things[index].color]
    if sized or not colored:
        index = rng.randrange(2)
        size = next(size for size in SIZES if size != scene.things[index].size)
        changed = _replaced(scene, index, replace(scene.things[index], size=size))
        return pair_caption(changed, *order, True) if sized else None
    index = rng.choice(colored)
    color = rng.choice([color for color in COLORS if color not in native_colors(scene.things[index].noun)])
    return pair_caption(_replaced(scene, index, replace(scene.things[index], color=color)), *order, sized)


def _replace_rel(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str:
    true = scene.relation(*order)
    others = [relation for pair in LAYOUTS.values() for relation in pair if relation != true]
    relation = rng.choice([*others, *LAYOUTS[scene.layout]])  # the converse is drawn more often
    first, second = (phrase(scene.things[index], sized) for index in order)
    return f"{first} {relation} {second}"


def _swap_obj(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str | None:
    return (
        pair_caption(swapped(scene, "noun"), *order, sized) if scene.things[0].count == scene.things[1].count else None
    )


def _swap_att(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str | None:
    first, second = scene.things
    if sized and first.size != second.size:
        return pair_caption(swapped(scene, "size"), *order, sized)
    if first.color and second.color and first.color != second.color:
        return pair_caption(swapped(scene, "color"), *order, sized)
    return None


def _add_obj(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str:
    added = phrase(Thing(_absent(scene, rng)), sized=False)
    return f"{pair_caption(scene, *order, sized)} and {added}"


def _add_att(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str | None:
    plain = [index for index in (0, 1) if not scene.things[index].color]
    if not plain:
        return None
    index = rng.choice(plain)
    color = rng.choice([color for color in COLORS if color not in native_colors(scene.things[index].noun)])
    return pair_caption(_replaced(scene, index, replace(scene.things[index], color=color)), *order, sized)


_FALSE = {
    "add_obj": _add_obj,
    "add_att": _add_att,
    "replace_obj": _replace_obj,
    "replace_att": _replace_att,
    "replace_rel": _replace_rel,
    "swap_obj": _swap_obj,
    "swap_att": _swap_att,
}


def sugarcrepe_sample(seed: int, within: str = "") -> tuple[dict[str, dict[str, dict]], dict[str, Scene]]:
    """The cases of sugarcrepe_mini by category and index, and the scenes of its pictures by their file names."""
    styles = STYLE_FOLDERS[within]
    rng = random.Random(f"{seed} sugarcrepe {within}")
    scenes = [sample_scene(rng, 2, styles) for _ in range(3 * SUGARCREPE_EACH)]
    cases: dict[str, dict[str, dict]] = {category: {} for category in _FALSE}
    for category, entries in cases.items():
        left = rng.sample(range(len(scenes)), len(scenes))  # few pictures serve many cases
        while len(entries) < SUGARCREPE_EACH:
            if not left:
                left.append(len(scenes))
                scenes.append(sample_scene(rng, 2, styles))
            number = left.pop()
            made = sugarcrepe_case(category, scenes[number], rng)
            if made:
                name = f"{number:06d}.webp"
                entries[str(len(entries))] = {"filename": name, "caption": made[0], "negative_caption": made[1]}
    shown = sorted({entry["filename"] for entries in cases.values() for entry in entries.values()})
    return cases, {name: scenes[int(Path(name).stem)] for name in shown}
