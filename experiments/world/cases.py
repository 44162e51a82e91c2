"""The cases of winoground_mini, pairs of scenes that differ by a swap, and those of sugarcrepe_mini."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vladva_kit.emoji_world.captions import pair_caption
from vladva_kit.emoji_world.cases import sugarcrepe_captions
from vladva_kit.emoji_world.nouns import SEEN_STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import Scene, fits, sample_scene, swapped
from vladva_kit.emoji_world.truth import is_true

CASES_PER_CATEGORY = 60
STYLE_FOLDERS = {"": SEEN_STYLES, "unseen_style": (UNSEEN_STYLE,)}  # folder within a benchmark -> styles
# in the order in which the cases are drawn
_CATEGORIES = ("add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")


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
