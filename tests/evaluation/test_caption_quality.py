"""The way to pycocoevalcap and back; the library itself is an optional extra, and a fake stands in for it here."""

import importlib.util
import json
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation.caption_quality import evaluate_captions


class Words:
    """Instead of CIDEr and ROUGE-L: the share of a caption's words that a person used, picture by picture."""

    def compute_score(self, people, said):
        assert people.keys() == said.keys() and all(len(captions) == 1 for captions in said.values())
        shares = []
        for at, (caption,) in said.items():
            known = {word for text in people[at] for word in text.split()}
            shares.append(np.mean([word in known for word in caption.split()]))
        return np.mean(shares), np.array(shares)


class Tokenizer:
    def tokenize(self, captions):
        return {at: [one["caption"].lower().rstrip(".") for one in listed] for at, listed in captions.items()}


@pytest.fixture
def library(monkeypatch):
    for name, thing in (("cider.cider", "Cider"), ("rouge.rouge", "Rouge"), ("tokenizer.ptbtokenizer", "PTBTokenizer")):
        module = ModuleType(f"pycocoevalcap.{name}")
        setattr(module, thing, Tokenizer if thing == "PTBTokenizer" else Words)
        parent = ModuleType(f"pycocoevalcap.{name.split('.')[0]}")
        monkeypatch.setitem(sys.modules, parent.__name__, parent)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", ModuleType("pycocoevalcap"))


class Says:
    def __init__(self, captions):
        self.captions, self.asked = iter(captions), []

    def generate_batch(self, images, prompts, histories=None, max_new_tokens=128):
        self.asked += prompts
        return [next(self.captions) for _ in images]


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


def test_captions_are_judged_against_all_of_a_picture_s_captions(library, folder):
    lvlm = Says(["a dog 0", "A cat.", "two birds", "one dog"])
    result = evaluate_captions(lvlm, folder, request="caption:", batch_size=3)
    assert lvlm.asked == ["caption:"] * 4
    assert result.scores["CIDEr"].percent == result.scores["ROUGE-L"].percent == 75
    assert result.scores["CIDEr"].low < 75 < result.scores["CIDEr"].high and result.n == 4
    kept = [case for case in result.margins() if case.score == "CIDEr"]
    assert [case.value for case in kept] == list(result.per_picture["CIDEr"]) and {case.correct for case in kept} == {
        None
    }
    assert (kept[1].caption, kept[1].other) == ("A dog 1.", "A cat.")
    plain = result.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain and plain["captions"][1] == "A cat."


@pytest.mark.skipif(importlib.util.find_spec("pycocoevalcap") is not None, reason="the extra is installed")
def test_without_the_extra_the_way_out_is_said_before_anything_is_asked(folder):
    lvlm = Says([])
    with pytest.raises(ImportError, match=r"run pip install 'vladva-kit\[captions\]'"):
        evaluate_captions(lvlm, folder)
    assert lvlm.asked == []
