"""False captions made by exchanging words: hard negatives for the `negatives` column of a dataset."""

import re

from vladva_kit.emoji_world.captions import PLURALS, article
from vladva_kit.emoji_world.scenes import CONVERSE, Scene
from vladva_kit.emoji_world.truth import CaptionParseError, caption_facts, is_true


def swapped_captions(caption: str, scene: Scene) -> list[str]:
    """Exchange two things' nouns, colors or sizes, or reverse a relation, and return the captions that are false.

        swapped_captions("a red dog above a blue cat", scene)
        # ["a red dog below a blue cat", "a red cat above a blue dog", "a blue dog above a red cat"]

    Captions that cannot be parsed or are true of the scene are left out. A caption of one thing gives none.
    """
    candidates = [_exchange(caption, CONVERSE)]
    for index, one in enumerate(scene.things):
        for other in scene.things[index + 1 :]:
            plurals = {PLURALS[one.noun]: PLURALS[other.noun], PLURALS[other.noun]: PLURALS[one.noun]}
            candidates.append(_exchange(caption, {one.noun: other.noun, other.noun: one.noun, **plurals}))
            for a, b in ((one.color, other.color), (one.size, other.size)):
                if a and b:
                    candidates.append(_exchange(caption, {a: b, b: a}))
    unique = dict.fromkeys(text for text in candidates if text != caption)
    return [text for text in unique if _parses(text) and not is_true(text, scene)]


def _exchange(caption: str, exchange: dict[str, str]) -> str:
    """Exchange words and correct the articles."""
    longest_first = "|".join(sorted(map(re.escape, exchange), key=len, reverse=True))
    text = re.sub(rf"\b(?:{longest_first})\b", lambda match: exchange[match.group()], caption)
    return re.sub(r"\ban? (\w+)", lambda match: f"{article(match[1])} {match[1]}", text)


def _parses(text: str) -> bool:
    try:
        return bool(caption_facts(text))
    except CaptionParseError:
        return False
