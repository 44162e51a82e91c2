"""Reading cases, and the fields that results share."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vladva_kit as vk
from vladva_kit.evaluation import cases as module
from vladva_kit.evaluation import sugarcrepe, sugarcrepe_pp
from vladva_kit.evaluation.cases import Result, json_entries, read_cases, result_fields
from vladva_kit.evaluation.results import results_record, write_per_case
from vladva_kit.models.images import BadInput


@dataclass(frozen=True)
class Case:
    id: str
    image: Path
    category: str = "a"
    margin: float = 0.0


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_an_image_of_several_cases_is_checked_once(image, monkeypatch):
    checked = []
    monkeypatch.setattr(module, "check_image", lambda path, location: checked.append(path))
    cases = read_cases([("first", "0"), ("second", "1")], lambda key, location: Case(key, image), "source", None)
    assert [case.id for case in cases] == ["0", "1"] and checked == [image]


def test_repeated_ids_and_missing_categories_are_rejected(image):
    entries = [("first", "0"), ("second", "0")]
    with pytest.raises(BadInput, match="second: 0 is also the id of first; ids must be unique"):
        read_cases(entries, lambda key, location: Case(key, image), "source", None)
    skipped: list[str] = []
    assert len(read_cases(entries, lambda key, location: Case(key, image), "source", skipped)) == len(skipped) == 1
    with pytest.raises(BadInput, match="source: no usable case of b"):
        read_cases(entries[:1], lambda key, location: Case(key, image), "source", None, ("a", "b"))


def test_entries_of_a_json_file_have_location_stem_and_key(tmp_path):
    (tmp_path / "swap_obj.json").write_text('{"7": {"caption": "a dog"}}')
    assert list(json_entries(tmp_path / "swap_obj.json", dict)) == [
        ("swap_obj.json, entry 7", ("swap_obj", "7", {"caption": "a dog"}))
    ]
    with pytest.raises(BadInput, match="found a JSON dict; a list of entries is needed"):
        list(json_entries(tmp_path / "swap_obj.json"))


def test_results_sort_their_cases_by_margin_and_become_json(image):
    cases = [Case(str(number), image) for number in range(3)]
    result = Result(
        **result_fields("x", cases, ["contents"], None, [True, False, False], margin=np.array([0, 2, -1.0]))
    )
    assert (result.n, result.ties, result.skipped) == (3, 1, ())
    assert [case.id for case in result.worst(2)] == ["2", "0"]
    assert result.as_dict()["cases"][1] == {"id": "1", "image": "one.png", "category": "a", "margin": 2.0}
    renamed = [Case("other", image), *cases[1:]]
    assert result.data != Result(**result_fields("x", renamed, ["contents"], None, (), margin=np.zeros(3))).data


def _answer(kind):
    return {"question_id": 1, "answer_type": kind, "answers": [{"answer": "dog"}]}


BOX = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 2, "bbox_h": 2}
WORDS = {"caption": "a dog", "negative_caption": "a cat"}
FORMATS = {  # file, a valid entry, and the function that reads it
    "examples.jsonl": (
        [{"id": 0, "image_0": "1.png", "image_1": "2.png", "caption_0": "a b", "caption_1": "b a", "tag": "Object"}],
        vk.evaluate_winoground,
    ),
    "swap_obj.json": ({"0": {"filename": "1.png", **WORDS}}, vk.evaluate_sugarcrepe),
    "swap_att.json": ([{"id": 0, "filename": "1.png", "caption2": "dogs", **WORDS}], vk.evaluate_sugarcrepe_pp),
    "visual_genome_relation.json": (
        [{"image_path": "1.png", **BOX, "true_caption": "a", "false_caption": "b", "relation_name": "on"}],
        vk.evaluate_word_order,
    ),
    "coco_order.json": ([{"image": "1.png", "caption_options": ["a", "b"]}], vk.evaluate_word_order),
    "dataset_coco.json": (
        {"images": [{"filename": "1.png", "filepath": ".", "split": "test", "sentences": [{"raw": "a"}]}]},
        vk.evaluate_retrieval,
    ),
    "captions_val2017.json": (
        {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": "a"}]},
        vk.evaluate_retrieval,
    ),
    "coco_karpathy_test.json": ([{"image": "1.png", "caption": ["a", "b"]}], vk.evaluate_retrieval),
    "v2_questions.json": ({"questions": [{"question_id": 1, "image_id": 1, "question": "what"}]}, vk.evaluate_vqa),
    "v2_annotations.json": ({"annotations": [_answer("other")]}, vk.evaluate_vqa),
    "metadata.jsonl": ([{"file_name": "1.png", "short": "a", "captions": ["b"], "group": "g"}], vk.evaluate_retrieval),
}
ODD_VALUES = [None, [], {"x": 1}, 10**400, "\ud83d", "x" * 5000]


def _mutations(value, odd):
    """Yield a copy of nested JSON for each place in it, with the odd value there, and one without the place."""
    if isinstance(value, dict):
        for key in value:
            yield {other: inner for other, inner in value.items() if other != key}
            yield from ({**value, key: inner} for inner in _mutations(value[key], odd))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ([*value[:index], new, *value[index + 1 :]] for new in _mutations(inner, odd))
    yield odd


@pytest.mark.parametrize("name", FORMATS)
def test_an_odd_value_anywhere_in_a_file_is_read_or_refused_in_one_sentence(name, tmp_path, random_encoder, answers):
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        for folder in (tmp_path, tmp_path / "images"):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    valid, evaluate = FORMATS[name]
    whole = {file: one for file, (one, reader) in FORMATS.items() if reader is evaluate is vk.evaluate_vqa}
    for benchmark, file in ((sugarcrepe, "swap_obj.json"), (sugarcrepe_pp, "swap_att.json")):
        whole |= {f"{category}.json": valid for category in benchmark.CATEGORIES if file == name}
    for file, content in whole.items():
        (tmp_path / file).write_text(json.dumps(content))
    source = tmp_path / name if name.startswith(("coco_", "dataset", "captions")) else tmp_path
    model = answers(lambda *_: "a dog") if evaluate is vk.evaluate_vqa else random_encoder
    for odd in ODD_VALUES:
        for content in _mutations(valid, odd):
            lines = content if name.endswith("jsonl") and isinstance(content, list) else [content]
            (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
            try:
                result = evaluate(model, source)
            except BadInput as error:
                assert len(str(error)) < 2000
            else:
                results_record({"model": {"it": result}}, {}, {})
                write_per_case(tmp_path / "per_case.parquet", {"model": {"it": result}})
