"""Caption quality with a fake pycocoevalcap, which is an optional extra."""

import importlib.util
import json
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation.caption_quality import evaluate_captions


class Words:
    """Instead of CIDEr and ROUGE-L: the share of a caption's words that a person used, per image."""

    def compute_score(self, references, generated):
        assert references.keys() == generated.keys() and all(len(captions) == 1 for captions in generated.values())
        shares = []
        for image, (caption,) in generated.items():
            known = {word for text in references[image] for word in text.split()}
            shares.append(np.mean([word in known for word in caption.split()]))
        return np.mean(shares), np.array(shares)


class Tokenizer:
    def tokenize(self, captions):
        return {image: [one["caption"].lower().rstrip(".") for one in texts] for image, texts in captions.items()}


@pytest.fixture
def library(monkeypatch):
    for name, attribute in (
        ("cider.cider", "Cider"),
        ("rouge.rouge", "Rouge"),
        ("tokenizer.ptbtokenizer", "PTBTokenizer"),
    ):
        module = ModuleType(f"pycocoevalcap.{name}")
        setattr(module, attribute, Tokenizer if attribute == "PTBTokenizer" else Words)
        parent = ModuleType(f"pycocoevalcap.{name.split('.')[0]}")
        monkeypatch.setitem(sys.modules, parent.__name__, parent)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", ModuleType("pycocoevalcap"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    entries = []
    for number in range(4):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        sentences = [{"raw": f"A dog {number}."}, {"raw": "one cat"}]
        entries.append({"filename": f"{number}.png", "split": "test", "sentences": sentences})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    return tmp_path


def test_captions_are_scored_against_all_references_of_the_image(library, folder, answers):
    generated = iter(["a dog 0", "A cat.", "two birds", "one dog"])
    lvlm = answers(lambda *_: next(generated))
    result = evaluate_captions(lvlm, folder, request="caption:", batch_size=3)
    assert lvlm.prompts == ["caption:"] * 4
    assert result.scores["CIDEr"].percent == result.scores["ROUGE-L"].percent == 75
    assert result.scores["CIDEr"].low < 75 < result.scores["CIDEr"].high and result.n == 4
    cases = [case for case in result.per_case() if case.score == "CIDEr"]
    assert [case.value for case in cases] == [1, 1, 0, 1]
    assert {case.correct for case in cases} == {None}
    assert (cases[1].caption, cases[1].other) == ("A dog 1.", "A cat.")
    plain = result.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain and plain["captions"][1] == "A cat."


@pytest.mark.skipif(importlib.util.find_spec("pycocoevalcap") is not None, reason="the extra is installed")
def test_without_the_extra_an_error_names_it_before_generation(folder, answers):
    lvlm = answers(lambda *_: "")
    with pytest.raises(ImportError, match=r"run pip install 'vladva-kit\[captions\]'"):
        evaluate_captions(lvlm, folder)
    assert lvlm.prompts == []
