"""Check captions against a scene: parse sentences into facts and look up each fact."""

import re
from collections.abc import Iterable

from vladva_kit.emoji_world.captions import PLURALS, READING_ORDERS
from vladva_kit.emoji_world.nouns import COLORS, COUNTS, GROUNDS, SIZES
from vladva_kit.emoji_world.scenes import CONVERSE, LAYOUTS, WORDS, Scene

Fact = tuple[str, ...]  # ("count", "duck", "two"), ("color", "dog", "blue"), ("to the left of", "dog", "cat"), …

_SINGULAR = {plural: word for word, plural in PLURALS.items()} | {word: word for word in WORDS}
_FORWARD = {forward for forward, _ in LAYOUTS.values()}  # relations are stored in this direction only
_ORDERS = {text: LAYOUTS[layout][0] for layout, text in READING_ORDERS.items()}


def _either(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_PIECE = re.compile(
    rf"\b(?:(?P<kinds>{_either(COUNTS)}) kinds? of things?"
    rf"|(?P<det>an?|the|{_either(COUNTS)}) (?:(?P<size>{_either(SIZES)}) )?(?:(?P<color>{_either(COLORS)}) )?"
    rf"(?P<noun>{_either(_SINGULAR)})"
    rf"|(?P<relation>{_either(CONVERSE)})"
    rf"|(?P<order>{_either(_ORDERS)})"
    rf"|(?:on|is) (?P<ground>{_either(GROUNDS)})"
    rf"|(?:is|are) (?P<adjective>{_either([*SIZES, *COLORS])}))\b"
)
# Words without meaning of their own. A sentence with any other leftover word cannot be parsed.
_FILLERS = frozenset(
    ("there", "is", "are", "a", "picture", "image", "of", "the", "and", "shows", "in", "on")
    + ("color", "ground", "under", "nothing", "else", "it")
)


class CaptionParseError(ValueError):
    """A sentence contains words or forms that have no meaning in the emoji world."""


def words_of(text: str) -> list[str]:
    """Split into lower-case words without punctuation: words_of("A dog, a cat.") == ["a", "dog", "a", "cat"]."""
    return re.findall(r"[a-z]+", text.lower())


def caption_facts(text: str) -> set[Fact]:
    """Parse a caption into the facts that it states.

        caption_facts("a blue dog to the left of a cat")
        # {("count", "dog", "one"), ("color", "dog", "blue"), ("count", "cat", "one"), ("to the left of", "dog", "cat")}

    Relations are stored in one direction, so both wordings give the same fact.
    Raises CaptionParseError, naming the words, if part of the text has no meaning here.
    """
    stated: set[Fact] = set()
    for sentence in re.split(r"[.!?]", text.lower()):
        stated |= _sentence_facts(" ".join(words_of(sentence)))
    if "nothing else" in " ".join(words_of(text)):
        stated.add(("kinds", COUNTS[min(len(nouns_of(text)), len(COUNTS) - 1)]))
    return stated


def nouns_of(text: str) -> set[str]:
    """Return the nouns that a text mentions, in the singular: nouns_of("the dogs above a cat") == {"dog", "cat"}."""
    matches = (piece["noun"] for piece in _PIECE.finditer(" ".join(words_of(text))))
    return {_SINGULAR[noun] for noun in matches if noun}


def _sentence_facts(sentence: str) -> set[Fact]:
    unknown = [word for word in _PIECE.sub(" ", sentence).split() if word not in _FILLERS]
    if unknown:
        raise CaptionParseError(f"'{sentence}': {unknown} have no meaning in the emoji world, remove them")
    stated: set[Fact] = set()
    nouns: list[str] = []  # in order of mention
    relation: str | None = None  # the relation that still needs its second noun
    order: str | None = None  # the one between all items of a list
    for piece in _PIECE.finditer(sentence):
        parts = {key: value for key, value in piece.groupdict().items() if value}
        if (relation and "noun" not in parts) or (not nouns and ("relation" in parts or "adjective" in parts)):
            raise CaptionParseError(f"'{sentence}' lacks a noun for '{relation or piece.group()}': add it")
        if "noun" in parts:
            noun = _SINGULAR[parts["noun"]]
            if noun in nouns and parts["det"] != "the":
                raise CaptionParseError(f"'{sentence}' names '{noun}' twice: use a count instead")
            stated |= _thing_facts(noun, parts)
            if nouns and (between := relation or order):
                stated.add(_relation_fact(between, nouns[-1], noun))
            nouns.append(noun)
        elif "adjective" in parts:
            stated.add(("size" if parts["adjective"] in SIZES else "color", nouns[-1], parts["adjective"]))
        else:
            stated |= {(key, parts[key]) for key in ("kinds", "ground") if key in parts}
        relation, order = parts.get("relation"), _ORDERS.get(parts.get("order", ""), order)
    if relation:
        raise CaptionParseError(f"'{sentence}' lacks a noun after '{relation}': add it")
    return stated


def _thing_facts(noun: str, parts: dict[str, str]) -> set[Fact]:
    stated: set[Fact] = {(key, noun, parts[key]) for key in ("size", "color") if key in parts}
    if parts["det"] == "the":
        return stated
    count = parts["det"] if parts["det"] in COUNTS else "one"
    expected = noun if count == "one" else PLURALS[noun]
    if parts["noun"] != expected:
        raise CaptionParseError(f"'{parts['det']} {parts['noun']}': number and noun do not agree, use '{expected}'")
    return stated | {("count", noun, count)}


def _relation_fact(relation: str, first: str, second: str) -> Fact:
    return (relation, first, second) if relation in _FORWARD else (CONVERSE[relation], second, first)


def scene_facts(scene: Scene) -> set[Fact]:
    """Return all facts of a scene, in the form of `caption_facts`."""
    true: set[Fact] = {("kinds", COUNTS[len(scene.things)]), ("ground", scene.ground)}
    for index, thing in enumerate(scene.things):
        true |= {("count", thing.noun, COUNTS[thing.count]), ("size", thing.noun, thing.size)}
        if thing.color:
            true.add(("color", thing.noun, thing.color))
        true |= {(LAYOUTS[scene.layout][0], thing.noun, later.noun) for later in scene.things[index + 1 :]}
    return true


def is_true(text: str, scene: Scene) -> bool:
    """Check that a caption states at least one fact, only true ones, and mentions nothing absent.

    is_true("a cat to the right of a blue dog", scene)    # True
    """
    try:
        stated = caption_facts(text)
    except CaptionParseError:
        return False
    return bool(stated) and stated <= scene_facts(scene) and nouns_of(text) <= {thing.noun for thing in scene.things}


def fact_score(text: str, reference: str, scene: Scene) -> tuple[int, int, int, int]:
    """Count (true stated facts, stated facts, stated reference facts, reference facts), the parts of an F1 score.

    The first two give precision and the last two recall, so a true fact missing from the reference is not an error.
    A sentence that cannot be parsed counts as one false fact.
    """
    parsed, n_unparsed = [], 0
    for sentence in re.split(r"[.!?]", text):
        try:
            caption_facts(sentence)
            parsed.append(sentence)
        except CaptionParseError:
            n_unparsed += 1
    stated, expected = caption_facts(". ".join(parsed)), caption_facts(reference)
    return len(stated & scene_facts(scene)), len(stated) + n_unparsed, len(stated & expected), len(expected)
