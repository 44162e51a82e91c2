"""Text generation: an oracle answers everything right, an empty answer is always wrong."""

import json
import math
import random

import pytest

from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.questions import KINDS, questions, sample_chat
from vladva_kit.emoji_world.scenes import sample_scene, validation_scenes
from vladva_kit.evaluation.bootstrap import bootstrap_interval
from vladva_kit.evaluation.generation import (
    LONG_REQUEST,
    SHORT_REQUEST,
    evaluate_generation,
    guess_rates,
    load_scenes,
)


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
    return next(q.answer for kind in KINDS for q in questions(scene, kind) if q.text == prompt)


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(3)
    return [sample_scene(rng) for _ in range(20)]


def test_an_oracle_answers_everything_right(scenes, answers):
    result = evaluate_generation(answers(knows), scenes, scenes, every_kind=True)
    assert result.questions.percent == result.second_turn.percent == result.caption_truth.percent == 100
    assert result.long_caption_f1 == pytest.approx(1.0)
    assert all(score.percent == 100 for score in result.by_kind.values()) and set(result.by_kind) == set(KINDS)
    assert result.false_captions == () and result.n == 20


def test_empty_answers_are_wrong(scenes, answers):
    result = evaluate_generation(answers(lambda *_: ""), scenes, scenes)
    assert result.questions.percent == result.second_turn.percent == result.caption_truth.percent == 0
    assert result.long_caption_f1 == 0 and len(result.false_captions) == 20


def test_answers_must_match_word_for_word_except_punctuation_and_case(scenes, answers):
    shouted = evaluate_generation(answers(lambda *row: f"{knows(*row)}.".upper()), scenes, scenes, long_captions=False)
    chatty = evaluate_generation(answers(lambda *row: f"{knows(*row)} indeed"), scenes, scenes, long_captions=False)
    assert shouted.questions.percent == 100 and chatty.questions.percent == 0
    assert math.isnan(shouted.long_caption_f1)


def test_f1_counts_stated_facts_and_facts_of_a_full_description(scenes, answers):
    singles = [scene for scene in scenes if len(scene.things) == 1] or [sample_scene(random.Random(1), 1)]

    def half(scene, prompt, history):
        return f"the ground is {scene.ground}." if prompt == LONG_REQUEST else "yes"

    result = evaluate_generation(answers(half), singles, singles)
    facts = sum(4 + (scene.things[0].color is not None) for scene in singles)  # kinds, ground, count, size, color
    recall = len(singles) / facts
    assert result.long_caption_f1 == pytest.approx(2 * recall / (1 + recall))


def test_as_dict_survives_json(scenes, answers):
    values = evaluate_generation(answers(knows), scenes[:3], scenes[:3]).as_dict()
    assert json.loads(json.dumps(values))["question_accuracy"]["percent"] == 100


def test_photos_without_scenes_are_rejected(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "metadata.jsonl").write_text('{"file_name": "a.jpg", "short": "a cat"}\n')
    with pytest.raises(ValueError, match="scene"):
        load_scenes(tmp_path, "test")


def test_percentages_are_the_means_of_the_cases(scenes, answers):
    result = evaluate_generation(
        answers(lambda scene, prompt, history: "yes" if "?" in prompt else "a dog"), scenes, scenes
    )
    for name, score in (("questions", result.questions), ("second_turn", result.second_turn)):
        assert len(result.right[name]) == 20 and 5 * sum(result.right[name]) == pytest.approx(score.percent)
    false = {row for row, _ in result.false_captions}
    assert [row not in false for row in range(20)] == list(result.right["caption_truth"])
    for name, score in (("question accuracy", result.questions), ("second turn", result.second_turn)):
        cases = [case for case in result.per_case() if case.score == name]
        assert 100 * sum(case.correct for case in cases) / 20 == pytest.approx(score.percent)
        assert {case.other for case in cases} == {"yes"} and all(case.caption.endswith("?") for case in cases)
    for kind, score in result.by_kind.items():
        cases = [case.correct for case in result.per_case() if case.category == kind]
        assert 100 * sum(cases) / len(cases) == pytest.approx(score.percent)


def test_chance_is_the_most_common_answer_of_each_kind_and_half_for_yes_and_no(scenes, answers):
    result = evaluate_generation(answers(lambda *_: ""), scenes, scenes, every_kind=True, long_captions=False)
    for kind, found in result.by_kind.items():
        truth = [q.answer for scene in scenes for q in questions(scene, kind)]
        if set(truth) <= {"yes", "no"}:
            assert found.chance == 50
        else:
            assert 100 / found.n <= found.chance < 100
    expected = sum(found.chance * found.n for found in result.by_kind.values()) / result.questions.n
    assert result.questions.chance == pytest.approx(expected) and 25 < expected < 60
    assert 25 < result.second_turn.chance < 100
    assert result.caption_truth.chance is None
    rates = guess_rates(["a", "b", "a", "a", "b", "b"], ["red", "yes", "red", "blue", "yes", "no"])
    assert rates.tolist() == pytest.approx([2 / 3, 0.5, 2 / 3, 2 / 3, 0.5, 0.5])


def test_about_39_percent_of_many_questions_are_right_by_chance(answers):
    scenes = validation_scenes("seen", 300)
    result = evaluate_generation(answers(lambda *_: ""), scenes, scenes, every_kind=True, long_captions=False)
    assert result.questions.chance == pytest.approx(39, abs=2)


def test_intervals_resample_the_questions_about_one_image_together(scenes, answers):
    few = scenes[:8]
    result = evaluate_generation(
        answers(lambda scene, *row: knows(scene, *row) if scene in few else ""), scenes, scenes, every_kind=True,
        long_captions=False,
    )  # fmt: skip
    cases = [case for case in result.cases if case.score == "question accuracy"]
    clustered = bootstrap_interval([case.correct for case in cases], groups=[case.image for case in cases])
    assert (result.questions.low, result.questions.high) == clustered
    alone = bootstrap_interval([case.correct for case in cases])
    assert clustered[1] - clustered[0] > 2 * (alone[1] - alone[0])


def test_the_data_fingerprint_depends_on_scenes_not_on_answers(scenes, answers):
    def data(answer, seen):
        return evaluate_generation(answers(lambda *_: answer), seen, seen, long_captions=False).data

    assert data("yes", scenes) == data("no", scenes) != data("no", scenes[:-1])
