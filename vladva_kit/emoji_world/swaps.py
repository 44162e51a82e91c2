"""Captions made false by exchanging two of their words: hard negatives for the `negatives` column of a data set."""

import re

from vladva_kit.emoji_world.captions import PLURALS, article
from vladva_kit.emoji_world.scenes import LAYOUTS, Scene
from vladva_kit.emoji_world.truth import NotUnderstood, facts, is_true

_RELATIONS = {a: b for pair in LAYOUTS.values() for a, b in (pair, pair[::-1])}


def swapped_captions(caption: str, scene: Scene) -> list[str]:
    """The false captions that come of exchanging two things' nouns, colors or sizes, or a relation's direction.

        swapped_captions("a red dog above a blue cat", scene)
        # ["a red cat above a blue dog", "a blue dog above a red cat", "a red dog below a blue cat"]

    Only what can be understood and is not true of the scene comes back; a caption of one thing gives nothing.
    """
    made = [_exchanged(caption, _RELATIONS)]
    for first in range(len(scene.things)):
        for second in range(first + 1, len(scene.things)):
            one, other = scene.things[first], scene.things[second]
            plurals = {PLURALS[one.noun]: PLURALS[other.noun], PLURALS[other.noun]: PLURALS[one.noun]}
            made.append(_exchanged(caption, {one.noun: other.noun, other.noun: one.noun, **plurals}))
            for field in ("color", "size"):
                values = getattr(one, field), getattr(other, field)
                if all(values):
                    made.append(_exchanged(caption, dict(zip(values, reversed(values), strict=True))))
    return [text for text in dict.fromkeys(made) if text != caption and _understood(text) and not is_true(text, scene)]


def _exchanged(caption: str, exchange: dict[str, str]) -> str:
    """The caption with words exchanged and articles as the new words want them."""
    longest_first = "|".join(sorted(map(re.escape, exchange), key=len, reverse=True))
    swapped = re.sub(rf"\b(?:{longest_first})\b", lambda found: exchange[found.group()], caption)
    return re.sub(r"\ban? (\w+)", lambda found: f"{article(found[1])} {found[1]}", swapped)


def _understood(text: str) -> bool:
    try:
        return bool(facts(text))
    except NotUnderstood:
        return False
