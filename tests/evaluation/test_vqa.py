"""VQA accuracy by its official rule."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation.vqa import (
    CONTRACTIONS,
    evaluate_vqa,
    load_vqa,
    normalize_answer,
    remove_punctuation,
    vqa_accuracy,
)
from vladva_kit.models.images import BadInput


@pytest.mark.parametrize(
    "answer, same",
    [
        ("The two Dogs!", "2 dogs"),
        ("A cat, an owl", "cat owl"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("the man's hat", "man's hat"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),
        ("1.5.", "1.5"),
        ("U.S.", "us"),
        ("yes\nno\tmaybe ", "yes no maybe"),
        ("(left)", "left"),
    ],
)
def test_answers_are_normalized_by_the_official_rules(answer, same):
    assert normalize_answer(answer) == same


def test_missing_apostrophes_are_restored():
    assert len(CONTRACTIONS) == 114  # of the official table's 120 keys, those that a lower-case word can meet
    assert CONTRACTIONS["yall'd've"] == CONTRACTIONS["y'alld've"] == CONTRACTIONS["y'all'dve"] == "y'all'd've"
    assert CONTRACTIONS["somebody'd"] == "somebodyd" and "its" not in CONTRACTIONS


@pytest.mark.parametrize("same, accuracy", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_is_the_mean_over_people_left_out_in_turn(same, accuracy):
    answers = ["2"] * same + ["3"] * (10 - same)
    assert vqa_accuracy("Two.", answers) == pytest.approx(accuracy)
    plain = []
    for person in range(10):
        others = answers[:person] + answers[person + 1 :]
        plain.append(min(1, sum(other == "2" for other in others) / 3))
    assert vqa_accuracy("2", answers) == pytest.approx(np.mean(plain))


def test_people_s_answers_lose_punctuation_only_if_they_differ():
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 10) == 0  # as in the official script
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1
    assert remove_punctuation("a, b") == "a b" and remove_punctuation("a,b") == "a b"
    with pytest.raises(ValueError, match="no answers to compare with"):
        vqa_accuracy("yes", [])


def write_files(folder, n=6, question=None, annotation=None):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    questions, annotations = [], []
    for number in range(n):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(folder / "images" / f"COCO_val2014_{40 + number:012}.png")
        key = {"question_id": 100 + number, "image_id": 40 + number}
        questions.append(key | {"question": f"is this {number}?"})
        answers = [{"answer": "yes" if number % 2 else "two", "answer_id": person} for person in range(10)]
        annotations.append(key | {"answers": answers, "answer_type": ("number", "yes/no")[number % 2]})
    questions[1] |= question or {}
    annotations[1] |= annotation or {}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))


def test_questions_are_asked_about_their_images(tmp_path, answers):
    write_files(tmp_path)
    lvlm = answers(lambda image, prompt, _: "Yes." if int(re.search(r"\d+", prompt)[0]) % 2 else "three")
    result = evaluate_vqa(lvlm, tmp_path, request="{}\nOne word.", batch_size=4)
    assert lvlm.batches == [4, 2] and lvlm.prompts[1] == "is this 1?\nOne word."
    assert result.accuracy.percent == result.fully_right.percent == 50
    assert {kind: one.percent for kind, one in result.by_answer_type.items()} == {"number": 0, "yes/no": 100}
    cases = list(result.per_case())
    assert [case.correct for case in cases if case.score == "fully right"] == [False, True] * 3
    assert [case.value for case in cases if case.score == "accuracy"] == [case.accuracy for case in result.cases]
    plain = result.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["accuracy"] == plain["accuracy"]
    assert evaluate_vqa(lvlm, tmp_path, limit=2).n == 2


def test_chance_is_the_most_common_answer_of_each_type_and_half_for_yes_and_no(tmp_path, answers):
    write_files(tmp_path, n=8)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    for number, entry in enumerate(content["annotations"]):
        entry["answer_type"] = "yes/no" if number % 2 else "other"
    for entry in content["annotations"][:4:2]:  # two of the four "other" questions have another answer
        entry["answers"] = [{"answer": "Red!"}] * 2 + [{"answer": "2"}] * 8
    path.write_text(json.dumps(content))
    result = evaluate_vqa(answers(lambda *_: "red"), tmp_path)
    expected = 100 * np.mean([vqa_accuracy("2", case.answers) for case in result.cases if case.answer_type == "other"])
    assert result.by_answer_type["other"].chance == pytest.approx(expected) and expected == 50
    assert result.by_answer_type["yes/no"].chance == 50
    assert result.accuracy.chance == pytest.approx(50) and result.fully_right.chance == pytest.approx(50)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"question": {"image_id": 7}}, "question 1: .*holds no image whose name ends in 7"),
        ({"question": {"question_id": 100}}, "question 1: 100 is also the id of .*question 0"),
        ({"question": {"question": ""}}, "question 1: 'question' is an empty caption"),
        ({"annotation": {"answers": []}}, "question 1: no answers to question 101"),
        ({"annotation": {"answers": [{"text": "a"}]}}, "question 1: found text; needed are answer"),
    ],
)
def test_a_bad_question_raises_before_generation_or_is_skipped(tmp_path, answers, change, reason):
    write_files(tmp_path, **change)
    lvlm = answers(lambda *_: "yes")
    with pytest.raises(BadInput, match=reason):
        evaluate_vqa(lvlm, tmp_path)
    assert lvlm.prompts == []
    result = evaluate_vqa(lvlm, tmp_path, on_error="skip")
    assert result.n == 5 and len(result.skipped) == 1


def test_missing_and_truncated_files_are_rejected(tmp_path):
    write_files(tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    complete = path.read_text()
    for text, reason in ((complete[:-9], "not JSON"), ('{"notes": []}', "no list 'annotations' in it")):
        path.write_text(text)
        with pytest.raises(BadInput, match=reason):
            evaluate_vqa(None, tmp_path)
    path.unlink()
    with pytest.raises(BadInput, match="holds 0 files named …annotations.json"):
        evaluate_vqa(None, tmp_path)


def test_hidden_files_and_other_files_with_a_number_are_no_images(tmp_path):
    write_files(tmp_path)
    (tmp_path / "images" / "._COCO_val2014_000000000040.png").write_bytes(b"\0\5")
    (tmp_path / "images" / "zz_features_40.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "._v2_OpenEnded_mscoco_val2014_questions.json").write_bytes(b"\0\5")
    (tmp_path / "images" / "val2014").mkdir()
    (tmp_path / "images" / "COCO_val2014_000000000041.png").rename(tmp_path / "images" / "val2014" / "41.png")
    assert [case.image.name for case in load_vqa(tmp_path)][:2] == ["COCO_val2014_000000000040.png", "41.png"]
