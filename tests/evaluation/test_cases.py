"""Reading cases, and the fields that results share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation import cases as module
from vladva_kit.evaluation.cases import Result, json_entries, read_cases, result_fields
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
