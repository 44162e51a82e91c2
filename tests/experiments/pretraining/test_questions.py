"""Questions that are asked in pretraining only have one right answer."""

import random

import pytest
from question_solver import solve

from experiments.pretraining.questions import EASY_KINDS, sample_caption_question, training_questions
from vladva_kit.emoji_world.nouns import SIZES
from vladva_kit.emoji_world.questions import KINDS, questions
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.truth import caption_facts, is_true, scene_facts


@pytest.fixture(scope="module")
def many():
    rng = random.Random(21)
    return [sample_scene(rng) for _ in range(150)]


def test_every_answer_is_the_only_one_that_follows_from_the_facts(many):
    asked = [
        (scene, kind, question) for scene in many for kind in EASY_KINDS for question in training_questions(scene, kind)
    ]
    assert {kind for _, kind, _ in asked} == set(EASY_KINDS)
    for scene, kind, question in asked:
        assert question.kind == kind and question.thing in scene.things
        assert solve(question.text, scene_facts(scene)) == [question.answer], (question, scene)


def test_the_other_kinds_are_those_of_the_package(many):
    assert all(training_questions(scene, kind) == questions(scene, kind) for scene in many[:20] for kind in KINDS)
    with pytest.raises(KeyError, match="smell"):
        training_questions(Scene((Thing("dog"),)), "smell")


def test_a_caption_question_can_be_answered_from_the_caption_alone(many):
    rng = random.Random(5)
    for scene in many:
        caption, question = sample_caption_question(scene, rng)
        assert is_true(caption, scene)
        known = caption_facts(caption)
        assert solve(question.text, known) == [question.answer], (caption, question)
        assert question.kind != "size" or any(size in caption for size in SIZES)
