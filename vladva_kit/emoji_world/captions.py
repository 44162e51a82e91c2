"""Captions of a scene: short ones in several wordings (under 30 tokens) and long ones (30 to 500 tokens)."""

import random

from vladva_kit.emoji_world.nouns import COUNTS, NOUNS
from vladva_kit.emoji_world.scenes import Scene, Thing

PLURALS = {noun.word: noun.plural for noun in NOUNS}
READING_ORDERS = {"row": "from left to right", "column": "from top to bottom"}


def article(word: str) -> str:
    """Choose the article by the word's first sound: article("elephant") == "an", article("unicorn") == "a"."""
    return "an" if word[0] in "aeio" or word == "umbrella" else "a"


def noun_form(thing: Thing) -> str:
    """Return the noun in singular or plural: noun_form(Thing("duck", 2)) == "ducks"."""
    return PLURALS[thing.noun] if thing.count > 1 else thing.noun


def verb(thing: Thing) -> str:
    """Return the verb that agrees with the count: verb(Thing("duck", 2)) == "are"."""
    return "are" if thing.count > 1 else "is"


def phrase(thing: Thing, sized: bool = True) -> str:
    """Describe a thing by a noun phrase, with its size if `sized`.

    phrase(Thing("dog", color="blue", size="big"))    # "a big blue dog"
    phrase(Thing("duck", 2, size="small"))           # "two small ducks"
    """
    words = [word for word in (thing.size if sized else None, thing.color, noun_form(thing)) if word]
    return " ".join([COUNTS[thing.count] if thing.count > 1 else article(words[0]), *words])


def pair_caption(scene: Scene, first: int, second: int, sized: bool = False) -> str:
    """Caption two things and their relation: "a blue dog to the left of a cat"."""
    things = scene.things
    return f"{phrase(things[first], sized)} {scene.relation(first, second)} {phrase(things[second], sized)}"


def _list_caption(scene: Scene, sized: bool, rng: random.Random) -> str:
    """List all things, in reading order or shuffled: "from left to right, a dog, a cat and two ducks"."""
    phrases = [phrase(thing, sized) for thing in scene.things]
    order = READING_ORDERS.get(scene.layout) if rng.random() < 0.7 else None
    if order is None:
        rng.shuffle(phrases)
    text = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return f"{order}, {text}" if order else text


def short_caption(scene: Scene, rng: random.Random) -> str:
    """Sample one of many natural wordings, under 30 tokens; it may leave details out.

    short_caption(scene, random.Random(0))    # "on grass, a blue dog to the left of a cat"
    """
    sized = rng.random() < 0.45
    things = scene.things
    if len(things) == 1:
        text = phrase(things[0], sized)
    elif len(things) == 3 and rng.random() < 0.5 or rng.random() < 0.12:
        text = _list_caption(scene, sized, rng)
    else:
        first, second = rng.choice([(0, 1), (1, 0)] if len(things) == 2 else [(0, 1), (1, 0), (1, 2), (2, 1)])
        text = pair_caption(scene, first, second, sized)
    form = rng.random()
    if form < 0.25:
        return f"{text} on {scene.ground}"
    if form < 0.40:
        return f"on {scene.ground}, {text}"
    if form < 0.55 and not text.startswith("from"):
        return f"there {'are' if text.split()[0] in COUNTS else 'is'} {text}"
    if form < 0.70 and not text.startswith("from"):
        return f"a picture of {text}"
    return text


def long_caption(scene: Scene, rng: random.Random) -> str:
    """State every fact of a scene, in sentences of 30 to 500 tokens in total and in random order.

    long_caption(scene, random.Random(0))
    # "the picture shows two kinds of things on grass. there is a big blue dog. there is a small cat.
    #  the dog is to the left of the cat. the cat is to the right of the dog."
    """
    things = scene.things
    kinds = f"{COUNTS[len(things)]} {'kinds of things' if len(things) > 1 else 'kind of thing'}"
    sentences = [f"the picture shows {kinds} on {scene.ground}."]
    order = rng.sample(range(len(things)), len(things))
    sentences += [f"there {verb(things[i])} {phrase(things[i])}." for i in order]
    if len(things) == 1:
        sentences += _single_thing_sentences(scene)
    for first in range(len(things) - 1):
        pair = (first, first + 1) if rng.random() < 0.5 else (first + 1, first)
        sentences += [_relation_sentence(scene, *pair), _relation_sentence(scene, *reversed(pair))]
    return " ".join(sentences)


def _subject(thing: Thing) -> str:
    return f"the {noun_form(thing)} {verb(thing)}"


def _relation_sentence(scene: Scene, first: int, second: int) -> str:
    return f"{_subject(scene.things[first])} {scene.relation(first, second)} the {noun_form(scene.things[second])}."


def _single_thing_sentences(scene: Scene) -> list[str]:
    """Restate all facts about a single thing, so that its caption reaches 30 tokens."""
    thing = scene.things[0]
    color = [f"the color of the {noun_form(thing)} is {thing.color}."] if thing.color else []
    ground = f"the ground under the {noun_form(thing)} is {scene.ground}."
    return [*color, f"{_subject(thing)} {thing.size}.", ground, "nothing else is in the picture."]
