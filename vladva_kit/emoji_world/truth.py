"""Whether a sentence is true of a scene: sentences become facts, and each fact is looked up."""

import re

from vladva_kit.emoji_world.captions import PLURALS
from vladva_kit.emoji_world.nouns import COLORS, COUNTS, GROUNDS, SIZES
from vladva_kit.emoji_world.scenes import LAYOUTS, WORDS, Scene

Fact = tuple[str, ...]  # ("count", "duck", "two"), ("color", "dog", "blue"), ("to the left of", "dog", "cat"), …

_SINGULAR = {plural: word for word, plural in PLURALS.items()} | {word: word for word in WORDS}
_RELATIONS = tuple(relation for pair in LAYOUTS.values() for relation in pair)
_ORDERS = {"from left to right": "to the left of", "from top to bottom": "above"}
_CONVERSE = {a: b for pair in LAYOUTS.values() for a, b in (pair, pair[::-1])}


def _either(words) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_PIECE = re.compile(
    rf"\b(?:(?P<kinds>{_either(COUNTS)}) kinds? of things?"
    rf"|(?P<det>an?|the|{_either(COUNTS)}) (?:(?P<size>{_either(SIZES)}) )?(?:(?P<color>{_either(COLORS)}) )?"
    rf"(?P<noun>{_either(_SINGULAR)})"
    rf"|(?P<relation>{_either(_RELATIONS)})"
    rf"|(?P<order>{_either(_ORDERS)})"
    rf"|(?:on|is) (?P<ground>{_either(GROUNDS)})"
    rf"|(?:is|are) (?P<adjective>{_either([*SIZES, *COLORS])}))\b"
)
# Words that state nothing by themselves. Anything else left over means that the sentence was not understood.
_EMPTY = frozenset(
    ("there", "is", "are", "a", "picture", "image", "of", "the", "and", "shows", "in", "on")
    + ("color", "ground", "under", "nothing", "else", "it")
)


class NotUnderstood(ValueError):
    """A sentence holds words that the emoji world gives no meaning to."""


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation: words_of("A dog, a cat.") == ["a", "dog", "a", "cat"]."""
    return re.findall(r"[a-z]+", text.lower())


def facts(text: str) -> set[Fact]:
    """What a caption states, as facts.

        facts("a blue dog to the left of a cat")
        # {("count", "dog", "one"), ("color", "dog", "blue"), ("count", "cat", "one"), ("to the left of", "dog", "cat")}

    A relation is stored in one direction only, so that both wordings state the same fact.
    Raises NotUnderstood, with the words, when something in the text has no meaning here.
    """
    stated: set[Fact] = set()
    for sentence in re.split(r"[.!?]", text.lower()):
        stated |= _sentence_facts(" ".join(words_of(sentence)))
    if "nothing else" in " ".join(words_of(text)):
        stated.add(("kinds", COUNTS[min(len(nouns_of(text)), len(COUNTS) - 1)]))
    return stated


def nouns_of(text: str) -> set[str]:
    """The things that a text names: nouns_of("the dogs above a cat") == {"dog", "cat"}."""
    named = (piece["noun"] for piece in _PIECE.finditer(" ".join(words_of(text))))
    return {_SINGULAR[noun] for noun in named if noun}


def _sentence_facts(sentence: str) -> set[Fact]:
    left_over = [word for word in _PIECE.sub(" ", sentence).split() if word not in _EMPTY]
    if left_over:
        raise NotUnderstood(f"'{sentence}' holds {left_over}: the emoji world gives no meaning to that")
    stated: set[Fact] = set()
    nouns: list[str] = []  # as they are named
    relation = order = None  # the relation that waits for its second noun; the one that a listing states throughout
    for piece in _PIECE.finditer(sentence):
        found = {key: value for key, value in piece.groupdict().items() if value}
        if (relation and "noun" not in found) or (not nouns and ("relation" in found or "adjective" in found)):
            raise NotUnderstood(f"'{sentence}' leaves open what '{relation or piece.group()}' is said of")
        if "noun" in found:
            noun = _SINGULAR[found["noun"]]
            if noun in nouns and found["det"] != "the":
                raise NotUnderstood(f"'{sentence}' names '{noun}' twice: a count says how many there are")
            stated |= _thing_facts(noun, found)
            if nouns and (relation or order):
                stated.add(_directed(relation or order, nouns[-1], noun))
            nouns.append(noun)
        elif "adjective" in found:
            stated.add(("size" if found["adjective"] in SIZES else "color", nouns[-1], found["adjective"]))
        else:
            stated |= {(key, found[key]) for key in ("kinds", "ground") if key in found}
        relation, order = found.get("relation"), _ORDERS.get(found.get("order"), order)
    if relation:
        raise NotUnderstood(f"'{sentence}' leaves open what '{relation}' is said of")
    return stated


def _thing_facts(noun: str, found: dict[str, str]) -> set[Fact]:
    stated = {(key, noun, found[key]) for key in ("size", "color") if key in found}
    if found["det"] == "the":
        return stated
    count = found["det"] if found["det"] in COUNTS else "one"
    if found["noun"] != (noun if count == "one" else PLURALS[noun]):
        raise NotUnderstood(f"'{found['det']} {found['noun']}': number and noun do not agree")
    return stated | {("count", noun, count)}


def _directed(relation: str, first: str, second: str) -> Fact:
    stored = {pair[0] for pair in LAYOUTS.values()}
    return (relation, first, second) if relation in stored else (_CONVERSE[relation], second, first)


def scene_facts(scene: Scene) -> set[Fact]:
    """All facts of a scene, in the form that `facts` gives."""
    true: set[Fact] = {("kinds", COUNTS[len(scene.things)]), ("ground", scene.ground)}
    for index, thing in enumerate(scene.things):
        true |= {("count", thing.noun, COUNTS[thing.count]), ("size", thing.noun, thing.size)}
        if thing.color:
            true.add(("color", thing.noun, thing.color))
        true |= {(LAYOUTS[scene.layout][0], thing.noun, later.noun) for later in scene.things[index + 1 :]}
    return true


def is_true(text: str, scene: Scene) -> bool:
    """Whether every fact of a caption holds in a scene, and it states at least one and names nothing that is absent.

    is_true("a cat to the right of a blue dog", scene)    # True
    """
    try:
        stated = facts(text)
    except NotUnderstood:
        return False
    return bool(stated) and stated <= scene_facts(scene) and nouns_of(text) <= {thing.noun for thing in scene.things}


def fact_score(text: str, reference: str, scene: Scene) -> tuple[int, int, int, int]:
    """(true facts stated, facts stated, the reference's facts stated, the reference's facts): what an F1 is made of.

    The first two give precision, the last two recall: a true fact that the reference leaves out is no mistake.
    Sentences that are not understood count as one false fact each.
    """
    clear, unclear = [], 0
    for sentence in re.split(r"[.!?]", text):
        try:
            facts(sentence)
            clear.append(sentence)
        except NotUnderstood:
            unclear += 1
    stated, wanted = facts(". ".join(clear)), facts(reference)
    return len(stated & scene_facts(scene)), len(stated) + unclear, len(stated & wanted), len(wanted)
