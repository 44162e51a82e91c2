"""Answer questions about a scene from its facts, independently of how the questions are generated."""

from vladva_kit.emoji_world.captions import PLURALS
from vladva_kit.emoji_world.nouns import COLORS

SINGULAR = {plural: noun for noun, plural in PLURALS.items()}
CONVERSE = {"to the right of": "to the left of", "below": "above", "behind": "in front of"}
RELATIONS = [*CONVERSE, *CONVERSE.values()]


def noun_in(text):
    """Return the last noun of a text, in the singular."""
    nouns = [SINGULAR.get(word, word) for word in text.split() if SINGULAR.get(word, word) in PLURALS]
    return nouns[-1] if nouns else None


def holds(known, relation, first, second):
    if relation in CONVERSE:
        return (CONVERSE[relation], second, first) in known
    return (relation, first, second) in known


def noun_form(known, noun):
    return noun if ("count", noun, "one") in known else PLURALS[noun]


def solve(text, known, it=None):
    """Return all answers to a question that follow from the facts."""
    text = text.rstrip("?")
    nouns = [fact[1] for fact in known if fact[0] == "count"]
    relation = next((relation for relation in RELATIONS if f" {relation} " in f"{text} "), None)
    about = noun_in(text) or it
    if text.startswith("what color"):
        return [fact[2] for fact in known if fact[:2] == ("color", about)] or ["natural"]
    if text.startswith("how big"):
        return [fact[2] for fact in known if fact[:2] == ("size", about)]
    if text.startswith("how many"):
        return [fact[2] for fact in known if fact[:2] == ("count", about)]
    if text.startswith("is there"):
        return ["yes" if about in nouns else "no"]
    if text == "what is the ground":
        return [fact[1] for fact in known if fact[0] == "ground"]
    if text == "what is in the picture":
        return [noun_form(known, noun) for noun in nouns]
    outer = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}
    ends = [
        (side, noun)
        for side, relation_of_side in outer.items()
        for noun in nouns
        if all(holds(known, relation_of_side, noun, other) for other in nouns if other != noun)
    ]
    if text.startswith("where in the picture"):
        return [side for side, noun in ends if noun == about]
    if text.startswith("what") and " on the " in text:
        return [noun_form(known, noun) for side, noun in ends if text.endswith(side)]
    if text.startswith("where"):
        return [
            f"{relation} the {noun_form(known, other)}"
            for other in nouns
            for relation in RELATIONS
            if holds(known, relation, about, other)
        ]
    if text.startswith("what") and relation:
        return [noun_form(known, noun) for noun in nouns if holds(known, relation, noun, about)]
    if text.startswith("what"):
        word = text.split()[3]
        kind = "color" if word in COLORS else "size"
        return [noun_form(known, noun) for noun in nouns if (kind, noun, word) in known]
    first, second = text.split(f" {relation} ")
    return ["yes" if holds(known, relation, noun_in(first), noun_in(second)) else "no"]
