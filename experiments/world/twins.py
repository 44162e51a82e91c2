"""Groups of twins: a scene and its swapped versions, each with a caption that is true of its own image only."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vladva_kit.emoji_world.captions import short_caption
from vladva_kit.emoji_world.nouns import SEEN_STYLES
from vladva_kit.emoji_world.scenes import Scene, fits, sample_scene, swapped
from vladva_kit.emoji_world.truth import is_true

SWAPS = {"positions": (), "color": ("color",), "noun": ("noun",), "size": ("size",)}  # swap -> exchanged fields
LARGEST_GROUP = 4
HELD_OUT_SHARE = 12  # one combination in twelve never occurs in training
_CAPTION_TRIES = 12


@dataclass(frozen=True)
class Twin:
    """One image of a group: its scene, its caption, and the swap that made it (None: the original scene)."""

    scene: Scene
    caption: str
    swap: str | None


def held_out(scene: Scene) -> bool:
    """Check whether a scene contains a noun pair or a color-noun pair that is held out of training.

    The choice depends on the words alone, so every sample and every seed holds out the same pairs.
    """
    nouns = sorted(thing.noun for thing in scene.things)
    noun_pairs = [f"{first} {second}" for index, first in enumerate(nouns) for second in nouns[index + 1 :]]
    color_pairs = [f"{thing.color} {thing.noun}" for thing in scene.things if thing.color]
    return any(zlib.crc32(pair.encode()) % HELD_OUT_SHARE == 0 for pair in noun_pairs + color_pairs)


def twin_group(
    rng: random.Random, swaps: Sequence[str] = tuple(SWAPS), styles: tuple[int, ...] = SEEN_STYLES
) -> list[Twin]:
    """Draw a group of two to four twins in random order, without held-out combinations.

        [twin.caption for twin in twin_group(random.Random(0))]
        # ["a red dog above a cat", "a dog above a red cat", "a cat above a red dog"]

    swaps: which fields are exchanged between two things (keys of SWAPS). Each twin has its own random details, such as
    exact positions, so that only the swap distinguishes the images reliably. With all swaps, a group has at least three
    twins. Raises KeyError for an unknown swap.
    """
    smallest = 3 if len(swaps) == len(SWAPS) else 2
    while True:
        base = sample_scene(rng, 2, styles, colored=rng.choice((0.5, 1.0)))
        scenes: list[tuple[Scene, str | None]] = [(base, None)]
        for swap in swaps:
            scene = replace(swapped(base, *SWAPS[swap]), seed=rng.randrange(2**31))
            if fits(scene) and all(replace(scene, seed=0) != replace(other, seed=0) for other, _ in scenes):
                scenes.append((scene, swap))
        if len(scenes) < smallest or any(held_out(scene) for scene, _ in scenes):
            continue
        others = rng.sample(scenes[1:], len(scenes) - 1)
        others.sort(key=lambda other: other[1] != "size")  # few scenes allow a size swap, so none of these is left out
        twins = _captioned([scenes[0], *others][:LARGEST_GROUP], rng)
        if len(twins) >= smallest:
            rng.shuffle(twins)
            return twins


def _captioned(scenes: Sequence[tuple[Scene, str | None]], rng: random.Random) -> list[Twin]:
    """Caption each scene so that no caption is true of another scene; leave out scenes for which none is found."""
    twins: list[Twin] = []
    for scene, swap in scenes:
        for _ in range(_CAPTION_TRIES):
            caption = short_caption(scene, rng)
            if not any(is_true(caption, twin.scene) or is_true(twin.caption, scene) for twin in twins):
                twins.append(Twin(scene, caption, swap))
                break
    return twins
