"""True and false captions of a scene that differ by a SugarCrepe category: hard negatives for compositionality."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from vladva_kit.emoji_world.captions import pair_caption, phrase
from vladva_kit.emoji_world.drawings import foreign_colors
from vladva_kit.emoji_world.nouns import SIZES
from vladva_kit.emoji_world.scenes import LAYOUTS, Scene, Thing, absent_nouns, swapped
from vladva_kit.emoji_world.truth import is_true


def sugarcrepe_captions(category: str, scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Write a true and a false caption of two things that differ by a SugarCrepe category; None if impossible.

    sugarcrepe_captions("swap_att", scene, rng)   # ("a red dog above a blue cat", "a blue dog above a red cat")
    """
    order = rng.choice([(0, 1), (1, 0)])
    sized = category.endswith("att") and rng.random() < 0.4
    true = pair_caption(scene, *order, sized)
    if category == "add_obj":
        false: str | None = f"{true} and {phrase(Thing(rng.choice(absent_nouns(scene))), sized=False)}"
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


def _changed(scene: Scene, index: int, **fields: Any) -> Scene:
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
