"""Questions about a scene with their one right answer, two-turn chats, and reading without a picture."""

import random
from dataclasses import dataclass

from vladva_kit.emoji_world.captions import PLURALS, article, name, pair_caption, phrase
from vladva_kit.emoji_world.drawings import native_colors
from vladva_kit.emoji_world.nouns import COLORS, COUNTS
from vladva_kit.emoji_world.scenes import LAYOUTS, WORDS, Scene, Thing

KINDS = ("what", "color", "size", "count", "ground", "exists", "lies", "where", "whether")
# Asked in lessons only, to learn what left and above are before two things have to be compared; never examined.
EASY_KINDS = ("ends", "side")


@dataclass(frozen=True)
class Question:
    """A question, its answer word for word, its kind (one of KINDS), and the thing it is about, if one."""

    kind: str
    text: str
    answer: str
    thing: Thing | None = None


def _are(thing: Thing) -> str:
    return "are" if thing.count > 1 else "is"


def questions(scene: Scene, kind: str) -> list[Question]:
    """All questions of one kind that have a single right answer in the scene, in a fixed order.

        questions(scene, "color")    # [Question("color", "what color is the dog?", "blue", …)]

    Raises KeyError for an unknown kind.
    """
    return _ASKERS[kind](scene)


def _what(scene: Scene) -> list[Question]:
    if len(scene.things) == 1:
        return [Question("what", "what is in the picture?", name(scene.things[0]), scene.things[0])]
    asked = []
    for thing in scene.things:
        others = [other for other in scene.things if other is not thing]
        colors = {thing.color: any(_may_be_called(other, thing.color) for other in others)} if thing.color else {}
        for word, shared in (colors | {thing.size: any(other.size == thing.size for other in others)}).items():
            if not shared:
                text = f"what {_are(thing)} the {word} thing{'s' if thing.count > 1 else ''}?"
                asked.append(Question("what", text, name(thing), thing))
    return asked


def _may_be_called(thing: Thing, color: str) -> bool:
    """Whether a thing has that color, or may have it by nature."""
    return thing.color == color or (thing.color is None and color in native_colors(thing.noun))


def _tint(scene: Scene) -> list[Question]:
    return [
        Question("color", f"what color {_are(thing)} the {name(thing)}?", thing.color or "natural", thing)
        for thing in scene.things
    ]


def _size(scene: Scene) -> list[Question]:
    return [Question("size", f"how big {_are(thing)} the {name(thing)}?", thing.size, thing) for thing in scene.things]


def _count(scene: Scene) -> list[Question]:
    return [
        Question("count", f"how many {PLURALS[thing.noun]} are there?", COUNTS[thing.count], thing)
        for thing in scene.things
    ]


def _ground(scene: Scene) -> list[Question]:
    return [Question("ground", "what is the ground?", scene.ground)]


def _exists(scene: Scene) -> list[Question]:
    rng = random.Random(scene.seed)  # the absent noun is the scene's own, so that the same scene asks the same
    present = rng.choice(scene.things)
    absent = rng.choice([word for word in WORDS if all(word != thing.noun for thing in scene.things)])
    return [
        Question("exists", f"is there {article(present.noun)} {present.noun}?", "yes", present),
        Question("exists", f"is there {article(absent)} {absent}?", "no"),
    ]


def _lies(scene: Scene) -> list[Question]:
    asked, last = [], len(scene.things) - 1
    for index, thing in enumerate(scene.things):  # with three things, only the ends' neighbors are the only answer
        for other, unique in ((index - 1, index == 1), (index + 1, index == last - 1)):
            if unique and 0 <= other <= last:
                answer = scene.things[other]
                text = f"what {_are(answer)} {scene.relation(other, index)} the {name(thing)}?"
                asked.append(Question("lies", text, name(answer), answer))
    return asked


def _where(scene: Scene) -> list[Question]:
    if len(scene.things) != 2:
        return []
    first, second = scene.things
    return [
        Question(
            "where", f"where {_are(first)} the {name(first)}?", f"{scene.relation(0, 1)} the {name(second)}", first
        ),
        Question(
            "where", f"where {_are(second)} the {name(second)}?", f"{scene.relation(1, 0)} the {name(first)}", second
        ),
    ]


def _whether(scene: Scene) -> list[Question]:
    asked = []
    for first in range(len(scene.things)):
        for second in range(len(scene.things)):
            if first != second:
                thing, other = scene.things[first], scene.things[second]
                for relation in LAYOUTS[scene.layout]:
                    answer = "yes" if relation == scene.relation(first, second) else "no"
                    text = f"{_are(thing)} the {name(thing)} {relation} the {name(other)}?"
                    asked.append(Question("whether", text, answer, thing))
    return asked


_SIDES = {"row": ("left", "right"), "column": ("top", "bottom")}


def _ends(scene: Scene) -> list[Question]:
    if len(scene.things) == 1 or scene.layout not in _SIDES:
        return []
    outer = zip(_SIDES[scene.layout], (scene.things[0], scene.things[-1]), strict=True)
    return [Question("ends", f"what {_are(thing)} on the {side}?", name(thing), thing) for side, thing in outer]


def _side(scene: Scene) -> list[Question]:
    return [
        Question("side", f"where in the picture {_are(end.thing)} the {name(end.thing)}?", side, end.thing)
        for end, side in zip(_ends(scene), _SIDES.get(scene.layout, ()), strict=False)
    ]


_ASKERS = dict(
    zip(
        (*KINDS, *EASY_KINDS),
        (_what, _tint, _size, _count, _ground, _exists, _lies, _where, _whether, _ends, _side),
        strict=True,
    )
)


def sample_question(scene: Scene, rng: random.Random, kind: str | None = None) -> Question:
    """A question by chance, of a kind by chance among those the scene allows."""
    kinds = [kind] if kind else rng.sample(KINDS, len(KINDS))
    for candidate in kinds:
        asked = questions(scene, candidate)
        if asked:
            return rng.choice(asked)
    raise ValueError(f"a scene of {len(scene.things)} things allows no question of kind '{kind}'")


def sample_chat(scene: Scene, rng: random.Random) -> tuple[Question, Question]:
    """Two turns: the second asks on about the thing of the first, by pronoun.

    sample_chat(scene, rng)   # ("what is to the left of the cat?", "dog"), ("what color is it?", "blue")
    """
    first = next(
        question
        for kind in rng.sample(("what", "lies", "exists", "count"), 4)
        for question in rng.sample(questions(scene, kind), len(questions(scene, kind)))
        if question.thing
    )
    thing = first.thing
    pronoun = "are they" if thing.count > 1 else "is it"
    follow = [
        Question("color", f"what color {pronoun}?", thing.color or "natural", thing),
        Question("size", f"how big {pronoun}?", thing.size, thing),
    ]
    if first.kind != "count":
        follow.append(Question("count", "how many are there?", COUNTS[thing.count], thing))
    if len(scene.things) == 2:
        where = next(question for question in _where(scene) if question.thing is thing)
        follow.append(Question("where", f"where {pronoun}?", where.answer, thing))
    return first, rng.choice(follow)


def sample_reading(scene: Scene, rng: random.Random) -> tuple[str, Question]:
    """A caption and a question that the caption alone answers; no picture is needed.

    sample_reading(scene, rng)   # "a blue dog to the left of a cat", ("what is to the right of the dog?", "cat")
    """
    sized = rng.random() < 0.5
    if len(scene.things) == 1:
        thing = scene.things[0]
        asked = [*_tint(scene), *_count(scene), *(_size(scene) if sized else [])]
        return phrase(thing, sized), rng.choice(asked)
    start = rng.randrange(len(scene.things) - 1)
    pair = Scene(scene.things[start : start + 2], scene.layout, scene.ground, seed=rng.randrange(2**31))
    kinds = ["lies", "where", "color", "count", "whether", "what", "exists", "ends", "side"] + (
        ["size"] if sized else []
    )
    asked = [
        question for kind in kinds for question in rng.sample(questions(pair, kind), 1 if questions(pair, kind) else 0)
    ]
    asked = [q for q in asked if sized or not (q.kind == "what" and q.text.split()[3] not in COLORS)]
    return pair_caption(pair, *rng.choice([(0, 1), (1, 0)]), sized), rng.choice(asked)
