"""Talking, judged: an oracle is right in everything, a mute one in nothing, and answers are compared word for word."""

import json
import math
import random

import pytest

from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.questions import KINDS, questions, sample_chat
from vladva_kit.emoji_world.scenes import sample_scene
from vladva_kit.evaluation.generation import LONG_REQUEST, SHORT_REQUEST, evaluate_generation, load_scenes


class Says:
    """Answers by a function of the scene, which stands in for the picture."""

    def __init__(self, answer):
        self.answer = answer

    def generate_batch(self, images, prompts, histories=None, max_new_tokens=128):
        histories = histories or [()] * len(prompts)
        return [self.answer(*row) for row in zip(images, prompts, histories, strict=True)]


def knows(scene, prompt, history):
    if prompt == SHORT_REQUEST:
        return short_caption(scene, random.Random(1))
    if prompt == LONG_REQUEST:
        return long_caption(scene, random.Random(2))
    if history:  # find the chat that led here
        for seed in range(4000):
            first, second = sample_chat(scene, random.Random(seed))
            if first.text == history[0][0] and second.text == prompt:
                return second.answer
    return next(q.answer for kind in KINDS for q in _all(scene, kind) if q.text == prompt)


def _all(scene, kind):
    return questions(scene, kind)


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(3)
    return [sample_scene(rng) for _ in range(20)]


def test_an_oracle_is_right_in_everything(scenes):
    result = evaluate_generation(Says(knows), scenes, scenes, every_kind=True)
    assert result.questions.percent == result.second_turn.percent == result.caption_truth.percent == 100
    assert result.long_caption_f1 == pytest.approx(1.0)
    assert all(score.percent == 100 for score in result.by_kind.values()) and set(result.by_kind) == set(KINDS)
    assert result.false_captions == () and result.n == 20


def test_the_mute_is_right_in_nothing(scenes):
    result = evaluate_generation(Says(lambda *_: ""), scenes, scenes)
    assert result.questions.percent == result.second_turn.percent == result.caption_truth.percent == 0
    assert result.long_caption_f1 == 0 and len(result.false_captions) == 20


def test_answers_are_compared_word_for_word_but_not_by_punctuation_or_case(scenes):
    shouted = evaluate_generation(Says(lambda *row: f"{knows(*row)}.".upper()), scenes, scenes, long_captions=False)
    chatty = evaluate_generation(Says(lambda *row: f"{knows(*row)} indeed"), scenes, scenes, long_captions=False)
    assert shouted.questions.percent == 100 and chatty.questions.percent == 0
    assert math.isnan(shouted.long_caption_f1)


def test_half_of_the_true_facts_give_the_f1_of_half_recall(scenes):
    singles = [scene for scene in scenes if len(scene.things) == 1] or [sample_scene(random.Random(1), 1)]

    def half(scene, prompt, history):
        return f"the ground is {scene.ground}." if prompt == LONG_REQUEST else "yes"

    result = evaluate_generation(Says(half), singles, singles)
    wanted = sum(4 + (scene.things[0].color is not None) for scene in singles)  # kinds, ground, count, size, color
    recall = len(singles) / wanted
    assert result.long_caption_f1 == pytest.approx(2 * recall / (1 + recall))


def test_the_result_is_plain_json(scenes):
    values = evaluate_generation(Says(knows), scenes[:3], scenes[:3]).as_dict()
    assert json.loads(json.dumps(values))["question_accuracy"]["percent"] == 100


def test_photographs_cannot_be_judged(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "metadata.jsonl").write_text('{"file_name": "a.jpg", "short": "a cat"}\n')
    with pytest.raises(ValueError, match="scene"):
        load_scenes(tmp_path, "test")


def test_the_cases_by_themselves_add_up_to_the_percentages(scenes):
    result = evaluate_generation(
        Says(lambda scene, prompt, history: "yes" if "?" in prompt else "a dog"), scenes, scenes
    )
    for name, score in (("questions", result.questions), ("second_turn", result.second_turn)):
        assert len(result.right[name]) == 20 and 5 * sum(result.right[name]) == pytest.approx(score.percent)
    false = {row for row, _ in result.false_captions}
    assert [row not in false for row in range(20)] == list(result.right["caption_truth"])
    for name, score in (("question accuracy", result.questions), ("second turn", result.second_turn)):
        kept = [case for case in result.margins() if case.score == name]
        assert 100 * sum(case.correct for case in kept) / 20 == pytest.approx(score.percent)
        assert {case.other for case in kept} == {"yes"} and all(case.caption.endswith("?") for case in kept)
    for kind, score in result.by_kind.items():
        kept = [case.correct for case in result.margins() if case.category == kind]
        assert 100 * sum(kept) / len(kept) == pytest.approx(score.percent)


def test_other_scenes_have_another_fingerprint_and_other_answers_the_same(scenes):
    def told(answer, seen):
        return evaluate_generation(Says(lambda *_: answer), seen, seen, long_captions=False).data

    assert told("yes", scenes) == told("no", scenes) != told("no", scenes[:-1]) and len(told("yes", scenes)) == 64
