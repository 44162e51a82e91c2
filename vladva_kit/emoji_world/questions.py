"""Questions about a scene with exactly one right answer, and two-turn chats."""

import random
from dataclasses import dataclass
from itertools import permutations

from vladva_kit.emoji_world.captions import PLURALS, article, noun_form, verb
from vladva_kit.emoji_world.drawings import native_colors
from vladva_kit.emoji_world.nouns import COUNTS
from vladva_kit.emoji_world.scenes import LAYOUTS, Scene, Thing, absent_nouns

# Keys of result tables and of the stored samples. "what": which thing has this color or size; "exists": is there a …;
# "lies": which thing stands in a given relation to another; "where": the relation of a thing to the other one;
# "whether": does a relation hold (yes or no). The rest are named after the attribute asked for.
KINDS = ("what", "color", "size", "count", "ground", "exists", "lies", "where", "whether")


@dataclass(frozen=True)
class Question:
    """A question, its exact answer, its kind, and the thing it is about, if any."""

    kind: str
    text: str
    answer: str
    thing: Thing | None = None


def questions(scene: Scene, kind: str) -> list[Question]:
    """List all questions of one kind that have a single right answer in the scene, in a fixed order.

        questions(scene, "color")    # [Question("color", "what color is the dog?", "blue", …)]

    Raises KeyError for an unknown kind.
    """
    return _ASKERS[kind](scene)


def _what(scene: Scene) -> list[Question]:
    if len(scene.things) == 1:
        return [Question("what", "what is in the picture?", noun_form(scene.things[0]), scene.things[0])]
    asked = []
    for thing in scene.things:
        others = [other for other in scene.things if other is not thing]
        shared = {thing.color: any(_may_look(other, thing.color) for other in others)} if thing.color else {}
        for word, ambiguous in (shared | {thing.size: any(other.size == thing.size for other in others)}).items():
            if not ambiguous:
                text = f"what {verb(thing)} the {word} thing{'s' if thing.count > 1 else ''}?"
                asked.append(Question("what", text, noun_form(thing), thing))
    return asked


def _may_look(thing: Thing, color: str) -> bool:
    return thing.color == color or (thing.color is None and color in native_colors(thing.noun))


def _subject(thing: Thing) -> str:
    return f"{verb(thing)} the {noun_form(thing)}"


def _color(scene: Scene) -> list[Question]:
    return [Question("color", f"what color {_subject(t)}?", t.color or "natural", t) for t in scene.things]


def _size(scene: Scene) -> list[Question]:
    return [Question("size", f"how big {_subject(t)}?", t.size, t) for t in scene.things]


def _count(scene: Scene) -> list[Question]:
    return [Question("count", f"how many {PLURALS[t.noun]} are there?", COUNTS[t.count], t) for t in scene.things]


def _ground(scene: Scene) -> list[Question]:
    return [Question("ground", "what is the ground?", scene.ground)]


def _exists(scene: Scene) -> list[Question]:
    rng = random.Random(scene.seed)  # from the scene's seed, so that the same scene gives the same questions
    present = rng.choice(scene.things)
    absent = rng.choice(absent_nouns(scene))
    return [
        Question("exists", f"is there {article(present.noun)} {present.noun}?", "yes", present),
        Question("exists", f"is there {article(absent)} {absent}?", "no"),
    ]


def _lies(scene: Scene) -> list[Question]:
    asked, last = [], len(scene.things) - 1
    for index, thing in enumerate(scene.things):  # of three things, only the outer ones give a unique answer
        for other, unique in ((index - 1, index == 1), (index + 1, index == last - 1)):
            if unique and 0 <= other <= last:
                answer = scene.things[other]
                text = f"what {verb(answer)} {scene.relation(other, index)} the {noun_form(thing)}?"
                asked.append(Question("lies", text, noun_form(answer), answer))
    return asked


def _where(scene: Scene) -> list[Question]:
    asked = []
    for first, second in ((0, 1), (1, 0)) if len(scene.things) == 2 else ():
        thing, other = scene.things[first], scene.things[second]
        answer = f"{scene.relation(first, second)} the {noun_form(other)}"
        asked.append(Question("where", f"where {_subject(thing)}?", answer, thing))
    return asked


def _whether(scene: Scene) -> list[Question]:
    asked = []
    for first, second in permutations(range(len(scene.things)), 2):
        thing, other = scene.things[first], scene.things[second]
        for relation in LAYOUTS[scene.layout]:
            answer = "yes" if relation == scene.relation(first, second) else "no"
            asked.append(Question("whether", f"{_subject(thing)} {relation} the {noun_form(other)}?", answer, thing))
    return asked


_ASKERS = {
    "what": _what,
    "color": _color,
    "size": _size,
    "count": _count,
    "ground": _ground,
    "exists": _exists,
    "lies": _lies,
    "where": _where,
    "whether": _whether,
}


def sample_question(scene: Scene, rng: random.Random) -> Question:
    """Sample a kind of question that the scene allows, then a question of that kind."""
    candidates = (questions(scene, kind) for kind in rng.sample(KINDS, len(KINDS)))
    return rng.choice(next(filter(None, candidates)))


def sample_chat(scene: Scene, rng: random.Random) -> tuple[Question, Question]:
    """Sample two turns: the second asks about the thing of the first by pronoun.

    sample_chat(scene, rng)   # ("what is to the left of the cat?", "dog"), ("what color is it?", "blue")
    """
    first, thing = next(
        (question, question.thing)
        for kind in rng.sample(("what", "lies", "exists", "count"), 4)
        for question in rng.sample(questions(scene, kind), len(questions(scene, kind)))
        if question.thing
    )
    pronoun = "are they" if thing.count > 1 else "is it"
    follow_ups = [
        Question("color", f"what color {pronoun}?", thing.color or "natural", thing),
        Question("size", f"how big {pronoun}?", thing.size, thing),
    ]
    if first.kind != "count":
        follow_ups.append(Question("count", "how many are there?", COUNTS[thing.count], thing))
    follow_ups += [Question("where", f"where {pronoun}?", q.answer, thing) for q in _where(scene) if q.thing is thing]
    return first, rng.choice(follow_ups)
