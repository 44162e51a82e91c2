"""Words for a scene: short captions in several wordings (under 30 tokens), long ones (30 to 500)."""

import random

from vladva_kit.emoji_world.nouns import COUNTS, NOUNS
from vladva_kit.emoji_world.scenes import Scene, Thing

PLURALS = {noun.word: noun.plural for noun in NOUNS}
_ORDERS = {"row": "from left to right", "column": "from top to bottom"}


def article(word: str) -> str:
    """The article for a word's first sound: article("elephant") == "an", article("unicorn") == "a"."""
    return "an" if word[0] in "aeio" or word in ("umbrella",) else "a"


def name(thing: Thing) -> str:
    """The noun in the number drawn: name(Thing("duck", 2)) == "ducks"."""
    return PLURALS[thing.noun] if thing.count > 1 else thing.noun


def phrase(thing: Thing, sized: bool = True) -> str:
    """A noun phrase that holds what is said of a thing.

    phrase(Thing("dog", color="blue", size="big"))    # "a big blue dog"
    phrase(Thing("duck", 2, size="small"))           # "two small ducks"
    """
    words = [word for word in (thing.size if sized else None, thing.color, name(thing)) if word]
    return " ".join([COUNTS[thing.count] if thing.count > 1 else article(words[0]), *words])


def pair_caption(scene: Scene, first: int, second: int, sized: bool = False) -> str:
    """Two things and how they lie: "a blue dog to the left of a cat"."""
    things = scene.things
    return f"{phrase(things[first], sized)} {scene.relation(first, second)} {phrase(things[second], sized)}"


def listing(scene: Scene, sized: bool, rng: random.Random) -> str:
    """All things, in their order or in any: "from left to right, a dog, a cat and two ducks"."""
    phrases = [phrase(thing, sized) for thing in scene.things]
    order = _ORDERS.get(scene.layout) if rng.random() < 0.7 else None
    if order is None:
        rng.shuffle(phrases)
    listed = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return f"{order}, {listed}" if order else listed


def short_caption(scene: Scene, rng: random.Random) -> str:
    """One of many wordings that a person might use, under 30 tokens; not everything is said.

    short_caption(scene, random.Random(0))    # "on grass, a blue dog to the left of a cat"
    """
    sized = rng.random() < 0.45
    things = scene.things
    if len(things) == 1:
        said = phrase(things[0], sized)
    elif len(things) == 3 and rng.random() < 0.5 or rng.random() < 0.12:
        said = listing(scene, sized, rng)
    else:
        first, second = rng.choice([(0, 1), (1, 0)] if len(things) == 2 else [(0, 1), (1, 0), (1, 2), (2, 1)])
        said = pair_caption(scene, first, second, sized)
    form = rng.random()
    if form < 0.25:
        return f"{said} on {scene.ground}"
    if form < 0.40:
        return f"on {scene.ground}, {said}"
    if form < 0.55 and not said.startswith("from"):
        return f"there {'are' if said.split()[0] in COUNTS else 'is'} {said}"
    if form < 0.70:
        return f"a picture of {said}" if not said.startswith("from") else said
    return said


def long_caption(scene: Scene, rng: random.Random) -> str:
    """Everything there is to say, in sentences of 30 to 500 tokens together, in an order by chance.

    long_caption(scene, random.Random(0))
    # "the picture shows two kinds of things on grass. there is a big blue dog. there is a small cat.
    #  the dog is to the left of the cat. the cat is to the right of the dog."
    """
    things = scene.things
    kinds = f"{COUNTS[len(things)]} {'kinds of things' if len(things) > 1 else 'kind of thing'}"
    sentences = [f"the picture shows {kinds} on {scene.ground}."]
    order = rng.sample(range(len(things)), len(things))
    sentences += [f"there {'are' if things[i].count > 1 else 'is'} {phrase(things[i])}." for i in order]
    if len(things) == 1:
        sentences += _about_one(scene)
    for first in range(len(things) - 1):
        pair = (first, first + 1) if rng.random() < 0.5 else (first + 1, first)
        sentences += [_relation_sentence(scene, *pair), _relation_sentence(scene, *reversed(pair))]
    return " ".join(sentences)


def _is(thing: Thing) -> str:
    return f"the {name(thing)} {'are' if thing.count > 1 else 'is'}"


def _relation_sentence(scene: Scene, first: int, second: int) -> str:
    return f"{_is(scene.things[first])} {scene.relation(first, second)} the {name(scene.things[second])}."


def _about_one(scene: Scene) -> list[str]:
    """A single thing, looked at from every side, so that its long caption is a long one."""
    thing = scene.things[0]
    sentences = [f"{_is(thing)} {thing.size}.", f"the ground under the {name(thing)} is {scene.ground}."]
    if thing.color:
        sentences.insert(0, f"the color of the {name(thing)} is {thing.color}.")
    return [*sentences, "nothing else is in the picture."]
