import random
from dataclasses import replace

import pytest

from vladva_kit.emoji_world.captions import PLURALS
from vladva_kit.emoji_world.drawings import native_colors
from vladva_kit.emoji_world.nouns import COLORS, SIZES
from vladva_kit.emoji_world.questions import (
    EASY_KINDS,
    KINDS,
    questions,
    sample_caption_question,
    sample_chat,
    sample_question,
)
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.truth import caption_facts, is_true, scene_facts

SINGULAR = {plural: noun for noun, plural in PLURALS.items()}
CONVERSE = {"to the right of": "to the left of", "below": "above", "behind": "in front of"}
RELATIONS = [*CONVERSE, *CONVERSE.values()]


@pytest.fixture(scope="module")
def many():
    rng = random.Random(21)
    return [sample_scene(rng) for _ in range(150)]


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
    """Return all answers that follow from the facts, independently of how the questions are generated."""
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


def test_every_answer_is_the_only_one_that_follows_from_the_facts(many):
    for scene in many:
        known = scene_facts(scene)
        for kind in (*KINDS, *EASY_KINDS):
            for question in questions(scene, kind):
                assert question.kind == kind
                assert solve(question.text, known) == [question.answer], (question, scene)


def test_questions_by_color_are_unambiguous_given_native_colors(many):
    for scene in many:
        for question in questions(scene, "what"):
            word = question.text.split()[3]
            if word in COLORS:
                plain = [thing for thing in scene.things if thing.color is None]
                assert not any(word in native_colors(thing.noun) for thing in plain)


def test_questions_refer_to_the_thing_they_are_about(many):
    for scene in many:
        for kind in ("what", "color", "size", "count", "lies", "where", "whether"):
            for question in questions(scene, kind):
                assert question.thing in scene.things
                text = question.answer if kind in ("what", "lies") else question.text
                first = next(w for w in text.rstrip("?").split() if SINGULAR.get(w, w) in PLURALS)
                assert SINGULAR.get(first, first) == question.thing.noun


def test_yes_and_no_are_balanced(many):
    for kind in ("exists", "whether"):
        answers = [question.answer for scene in many for question in questions(scene, kind)]
        assert set(answers) == {"yes", "no"} and answers.count("yes") == answers.count("no")


def test_questions_depend_on_the_scene_alone(many):
    for scene in many[:20]:
        assert all(questions(scene, kind) == questions(replace(scene), kind) for kind in KINDS)


def test_verbs_agree_with_counts():
    scene = Scene((Thing("duck", 2, "blue"), Thing("dog", size="big")))
    asked = [question.text for kind in KINDS for question in questions(scene, kind)]
    assert "what color are the ducks?" in asked and "how big is the dog?" in asked
    assert "what are the blue things?" in asked and "what is the big thing?" in asked
    assert "what are to the left of the dog?" in asked and "what is to the right of the ducks?" in asked


def test_an_unknown_kind_raises_a_key_error():
    with pytest.raises(KeyError, match="smell"):
        questions(Scene((Thing("dog"),)), "smell")


def test_every_kind_is_sampled(many):
    rng = random.Random(3)
    assert {sample_question(scene, rng).kind for scene in many} == set(KINDS)


def test_the_second_turn_asks_about_the_thing_of_the_first_by_pronoun(many):
    rng = random.Random(4)
    for scene in many:
        first, second = sample_chat(scene, rng)
        known = scene_facts(scene)
        assert first.thing is not None and second.thing is first.thing
        assert solve(first.text, known) == [first.answer]
        assert noun_in(second.text) is None
        assert solve(second.text, known, it=first.thing.noun) == [second.answer]
        if second.kind != "count":
            assert ("they" in second.text) == (first.thing.count > 1)


def test_a_caption_question_can_be_answered_from_the_caption_alone(many):
    rng = random.Random(5)
    for scene in many:
        caption, question = sample_caption_question(scene, rng)
        assert is_true(caption, scene)
        known = caption_facts(caption)
        assert solve(question.text, known) == [question.answer], (caption, question)
        assert question.kind != "size" or any(size in caption for size in SIZES)
