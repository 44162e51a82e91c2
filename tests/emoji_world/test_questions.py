import random

import pytest

from vladva_kit.emoji_world.captions import PLURALS
from vladva_kit.emoji_world.drawings import native_colors
from vladva_kit.emoji_world.nouns import COLORS, SIZES
from vladva_kit.emoji_world.questions import EASY_KINDS, KINDS, questions, sample_chat, sample_question, sample_reading
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.truth import facts, is_true, scene_facts
from vladva_kit.emoji_world.words import UNK, encode

SINGULAR = {plural: noun for noun, plural in PLURALS.items()}
CONVERSE = {"to the right of": "to the left of", "below": "above", "behind": "in front of"}
RELATIONS = [*CONVERSE, *CONVERSE.values()]


@pytest.fixture(scope="module")
def many():
    rng = random.Random(21)
    return [sample_scene(rng) for _ in range(250)]


def named(words):
    """The noun among the words, in the singular."""
    found = [SINGULAR.get(word, word) for word in words.split() if SINGULAR.get(word, word) in PLURALS]
    return found[-1] if found else None


def holds(known, relation, first, second):
    if relation in CONVERSE:
        return (CONVERSE[relation], second, first) in known
    return (relation, first, second) in known


def numbered(known, noun):
    return noun if ("count", noun, "one") in known else PLURALS[noun]


def solve(text, known, it=None):
    """All answers that follow from the facts: loops over facts, knowing nothing of how questions are made."""
    text = text.rstrip("?")
    nouns = [fact[1] for fact in known if fact[0] == "count"]
    relation = next((relation for relation in RELATIONS if f" {relation} " in f"{text} "), None)
    about = named(text) or it
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
        return [numbered(known, noun) for noun in nouns]
    outer = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}
    ends = [
        (side, noun)
        for side, beside in outer.items()
        for noun in nouns
        if all(holds(known, beside, noun, other) for other in nouns if other != noun)
    ]
    if text.startswith("where in the picture"):
        return [side for side, noun in ends if noun == about]
    if text.startswith("what") and " on the " in text:
        return [numbered(known, noun) for side, noun in ends if text.endswith(side)]
    if text.startswith("where"):
        return [
            f"{relation} the {numbered(known, other)}"
            for other in nouns
            for relation in RELATIONS
            if holds(known, relation, about, other)
        ]
    if text.startswith("what") and relation:
        return [numbered(known, noun) for noun in nouns if holds(known, relation, noun, about)]
    if text.startswith("what"):
        word = text.split()[3]
        kind = "color" if word in COLORS else "size"
        return [numbered(known, noun) for noun in nouns if (kind, noun, word) in known]
    first, second = text.split(f" {relation} ")
    return ["yes" if holds(known, relation, named(first), named(second)) else "no"]


def test_every_answer_follows_from_the_facts_and_is_the_only_one(many):
    for scene in many:
        known = scene_facts(scene)
        for kind in (*KINDS, *EASY_KINDS):
            for question in questions(scene, kind):
                assert question.kind == kind
                assert solve(question.text, known) == [question.answer], (question, scene)


def test_every_question_and_answer_is_made_of_known_words(many):
    for scene in many[:80]:
        for kind in (*KINDS, *EASY_KINDS):
            for question in questions(scene, kind):
                assert UNK not in encode(f"{question.text} {question.answer}")


def test_nothing_is_asked_by_a_tint_that_another_thing_may_have_by_nature(many):
    for scene in many:
        for question in questions(scene, "what"):
            word = question.text.split()[3]
            if word in COLORS:
                plain = [thing for thing in scene.things if thing.color is None]
                assert not any(word in native_colors(thing.noun) for thing in plain)


def test_questions_about_a_thing_carry_that_thing(many):
    for scene in many:
        for kind in ("what", "color", "size", "count", "lies", "where", "whether"):
            for question in questions(scene, kind):
                assert question.thing in scene.things
                said = question.answer if kind in ("what", "lies") else question.text
                first = next(w for w in said.rstrip("?").split() if SINGULAR.get(w, w) in PLURALS)
                assert SINGULAR.get(first, first) == question.thing.noun


def test_yes_and_no_are_asked_equally_often(many):
    for kind in ("exists", "whether"):
        answers = [question.answer for scene in many for question in questions(scene, kind)]
        assert set(answers) == {"yes", "no"} and answers.count("yes") == answers.count("no")


def test_the_same_scene_asks_the_same(many):
    for scene in many[:20]:
        assert all(questions(scene, kind) == questions(scene, kind) for kind in KINDS)


def test_verbs_agree_with_counts():
    scene = Scene((Thing("duck", 2, "blue"), Thing("dog", size="big")))
    asked = [question.text for kind in KINDS for question in questions(scene, kind)]
    assert "what color are the ducks?" in asked and "how big is the dog?" in asked
    assert "what are the blue things?" in asked and "what is the big thing?" in asked
    assert "what are to the left of the dog?" in asked and "what is to the right of the ducks?" in asked


def test_a_kind_that_the_scene_does_not_allow_is_refused_and_an_unknown_kind_too():
    alone = Scene((Thing("dog"),))
    with pytest.raises(ValueError, match="1 things allows no question of kind 'where'"):
        sample_question(alone, random.Random(0), "where")
    with pytest.raises(KeyError, match="smell"):
        questions(alone, "smell")


def test_every_kind_is_sampled(many):
    rng = random.Random(3)
    assert {sample_question(scene, rng).kind for scene in many} == set(KINDS)


def test_a_chats_second_turn_asks_on_about_the_first_turns_thing(many):
    rng = random.Random(4)
    for scene in many:
        first, second = sample_chat(scene, rng)
        known = scene_facts(scene)
        assert first.thing is not None and second.thing is first.thing
        assert solve(first.text, known) == [first.answer]
        assert named(second.text) is None  # a pronoun, or nothing
        assert solve(second.text, known, it=first.thing.noun) == [second.answer]
        if second.kind != "count":
            assert ("they" in second.text) == (first.thing.count > 1)


def test_a_reading_is_answered_by_its_caption_alone(many):
    rng = random.Random(5)
    for scene in many:
        caption, question = sample_reading(scene, rng)
        assert is_true(caption, scene)
        known = facts(caption)
        assert solve(question.text, known) == [question.answer], (caption, question)
        assert question.kind != "size" or any(size in caption for size in SIZES)
