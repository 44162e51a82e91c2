"""Questions that are asked in pretraining only: about the sides of an image, and about a caption without its image."""

from __future__ import annotations

import random

from vladva_kit.emoji_world.captions import noun_form, pair_caption, phrase, verb
from vladva_kit.emoji_world.nouns import COLORS
from vladva_kit.emoji_world.questions import Question, questions
from vladva_kit.emoji_world.scenes import Scene, Thing

# "ends" asks which thing is leftmost, rightmost, top or bottom; "side" is the inverse.
EASY_KINDS = ("ends", "side")
_SIDES = {"row": ("left", "right"), "column": ("top", "bottom")}


def training_questions(scene: Scene, kind: str) -> list[Question]:
    """List all questions of one kind of KINDS or EASY_KINDS, in a fixed order.

        training_questions(scene, "ends")    # [Question("ends", "what is on the left?", "dog", …), …]

    Raises KeyError for an unknown kind.
    """
    if kind == "ends":
        asked = [
            (f"what {verb(thing)} on the {side}?", noun_form(thing), thing) for side, thing in _outer_things(scene)
        ]
    elif kind == "side":
        asked = [
            (f"where in the picture {verb(thing)} the {noun_form(thing)}?", side, thing)
            for side, thing in _outer_things(scene)
        ]
    else:
        return questions(scene, kind)
    return [Question(kind, *one) for one in asked]


def _outer_things(scene: Scene) -> list[tuple[str, Thing]]:
    if len(scene.things) == 1 or scene.layout not in _SIDES:
        return []
    return list(zip(_SIDES[scene.layout], (scene.things[0], scene.things[-1]), strict=True))


def sample_caption_question(scene: Scene, rng: random.Random) -> tuple[str, Question]:
    """Sample a caption and a question that can be answered from the caption alone.

    sample_caption_question(scene, rng)   # "a blue dog above a cat", ("what is below the dog?", "cat")
    """
    sized = rng.random() < 0.5
    if len(scene.things) == 1:
        kinds = ("color", "count", "size") if sized else ("color", "count")
        asked = [question for kind in kinds for question in questions(scene, kind)]
        return phrase(scene.things[0], sized), rng.choice(asked)
    start = rng.randrange(len(scene.things) - 1)
    pair = Scene(scene.things[start : start + 2], scene.layout, scene.ground, seed=rng.randrange(2**31))
    kinds = ["lies", "where", "color", "count", "whether", "what", "exists", "ends", "side"]
    if sized:
        kinds.append("size")
    asked = [rng.sample(candidates, 1)[0] for kind in kinds if (candidates := training_questions(pair, kind))]
    asked = [q for q in asked if sized or not (q.kind == "what" and q.text.split()[3] not in COLORS)]
    return pair_caption(pair, *rng.choice([(0, 1), (1, 0)]), sized), rng.choice(asked)
