"""Benchmark cases that test compositionality: pairs of scenes that differ by a swap, and hard negative captions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vladva_kit.emoji_world.captions import pair_caption, phrase
from vladva_kit.emoji_world.drawings import foreign_colors
from vladva_kit.emoji_world.nouns import SEEN_STYLES, SIZES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import LAYOUTS, Scene, Thing, absent_nouns, fits, sample_scene, swapped
from vladva_kit.emoji_world.truth import is_true

CASES_PER_CATEGORY = 60
STYLE_FOLDERS = {"": SEEN_STYLES, "unseen_style": (UNSEEN_STYLE,)}  # folder within a benchmark -> styles


@dataclass(frozen=True)
class SwapCase:
    """Two scenes and their captions, which use the same words in a different order."""

    kind: str
    scenes: tuple[Scene, Scene]
    captions: tuple[str, str]


def swap_cases(rng: random.Random, kind: str, styles: tuple[int, ...] = SEEN_STYLES) -> Iterator[SwapCase]:
    """Yield endless Winoground-like cases of a kind: "object", "color", "size" or "relation".

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
        same_words = sorted(captions[0].split()) == sorted(captions[1].split())
        if same_words and fits(other) and not is_true(captions[1], scene):
            yield SwapCase(kind, (scene, other), captions)


def sugarcrepe_captions(category: str, scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Write a true and a false caption of two things that differ by a SugarCrepe category; None if impossible.

    sugarcrepe_captions("swap_att", scene, rng)   # ("a red dog above a blue cat", "a blue dog above a red cat")
    """
    order = rng.choice([(0, 1), (1, 0)])
    sized = category.endswith("att") and rng.random() < 0.4
    true = pair_caption(scene, *order, sized)
    if category == "add_obj":
        false = f"{true} and {phrase(Thing(rng.choice(absent_nouns(scene))), sized=False)}"
    elif category == "replace_rel":
        false = _replace_relation(scene, order, rng)
    else:
        changed = _CHANGES[category](scene, sized, rng)
        false = pair_caption(changed, *order, sized) if changed else None
    return (true, false) if false and not is_true(false, scene) else None


def _replace_relation(scene: Scene, order: tuple[int, int], rng: random.Random) -> str:
    others = [relation for pair in LAYOUTS.values() for relation in pair if relation != scene.relation(*order)]
    relation = rng.choice([*others, *LAYOUTS[scene.layout]])  # the converse comes up more often
    first, second = (phrase(scene.things[index], sized=False) for index in order)
    return f"{first} {relation} {second}"


def _changed(scene: Scene, index: int, **fields: str) -> Scene:
    things = list(scene.things)
    things[index] = replace(things[index], **fields)
    return replace(scene, things=tuple(things))


def _recolor(scene: Scene, indices: list[int], rng: random.Random) -> Scene | None:
    if not indices:
        return None
    index = rng.choice(indices)
    return _changed(scene, index, color=rng.choice(foreign_colors(scene.things[index].noun)))


def _add_attribute(scene: Scene, sized: bool, rng: random.Random) -> Scene | None:
    return _recolor(scene, [index for index in (0, 1) if not scene.things[index].color], rng)


def _replace_object(scene: Scene, sized: bool, rng: random.Random) -> Scene:
    return _changed(scene, rng.randrange(2), noun=rng.choice(absent_nouns(scene)))


def _replace_attribute(scene: Scene, sized: bool, rng: random.Random) -> Scene | None:
    colored = [index for index in (0, 1) if scene.things[index].color]
    if colored and not sized:
        return _recolor(scene, colored, rng)
    index = rng.randrange(2)  # drawn even if unused: the shipped samples depend on it
    return _changed(scene, index, size=next(s for s in SIZES if s != scene.things[index].size)) if sized else None


def _swap_object(scene: Scene, sized: bool, rng: random.Random) -> Scene | None:
    return swapped(scene, "noun") if scene.things[0].count == scene.things[1].count else None


def _swap_attribute(scene: Scene, sized: bool, rng: random.Random) -> Scene | None:
    first, second = scene.things
    if sized and first.size != second.size:
        return swapped(scene, "size")
    if first.color and second.color and first.color != second.color:
        return swapped(scene, "color")
    return None


_CHANGES = {
    "add_att": _add_attribute,
    "replace_obj": _replace_object,
    "replace_att": _replace_attribute,
    "swap_obj": _swap_object,
    "swap_att": _swap_attribute,
}
# In this order the cases are drawn.
_CATEGORIES = ("add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")


def sugarcrepe_sample(seed: int, folder: str = "") -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, Scene]]:
    """Draw the cases of sugarcrepe_mini by category and index, and its scenes by image file name.

    folder: a key of STYLE_FOLDERS.
    """
    styles = STYLE_FOLDERS[folder]
    rng = random.Random(f"{seed} sugarcrepe {folder}")
    scenes = [sample_scene(rng, 2, styles) for _ in range(3 * CASES_PER_CATEGORY)]
    cases: dict[str, dict[str, dict[str, Any]]] = {category: {} for category in _CATEGORIES}
    for category, entries in cases.items():
        unused = rng.sample(range(len(scenes)), len(scenes))  # categories share images, to keep the sample small
        while len(entries) < CASES_PER_CATEGORY:
            if not unused:
                unused.append(len(scenes))
                scenes.append(sample_scene(rng, 2, styles))
            number = unused.pop()
            captions = sugarcrepe_captions(category, scenes[number], rng)
            if captions:
                entry = {"filename": f"{number:06d}.webp", "caption": captions[0], "negative_caption": captions[1]}
                entries[str(len(entries))] = entry
    used = sorted({entry["filename"] for entries in cases.values() for entry in entries.values()})
    return cases, {name: scenes[int(Path(name).stem)] for name in used}
