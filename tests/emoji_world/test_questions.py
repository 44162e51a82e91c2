import random
from dataclasses import replace

import pytest
from question_solver import SINGULAR, noun_in, solve

from vladva_kit.emoji_world.captions import PLURALS
from vladva_kit.emoji_world.drawings import native_colors
from vladva_kit.emoji_world.nouns import COLORS
from vladva_kit.emoji_world.questions import KINDS, questions, sample_chat, sample_question
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.truth import scene_facts


@pytest.fixture(scope="module")
def many():
    rng = random.Random(21)
    return [sample_scene(rng) for _ in range(150)]


def test_every_answer_is_the_only_one_that_follows_from_the_facts(many):
    for scene in many:
        known = scene_facts(scene)
        for kind in KINDS:
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
