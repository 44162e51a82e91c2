"""Caption quality with a fake pycocoevalcap, and CIDEr and ROUGE-L of the real one if that extra is installed."""

import importlib.util
import json
import math
import shutil
import sys
from collections import Counter
from functools import cache
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import vladva_kit as vk
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
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


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


def test_without_java_an_error_names_it_before_generation(library, folder, answers, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    lvlm = answers(lambda *_: "")
    with pytest.raises(ImportError, match="java is not on the PATH; install a Java runtime"):
        evaluate_captions(lvlm, folder)
    assert lvlm.prompts == []


def rouge_l(generated, references):
    """ROUGE-L of COCO's evaluation: the best precision and recall over the references, with beta 1.2."""

    @cache
    def longest_common(one, other):
        if not one or not other:
            return 0
        if one[-1] == other[-1]:
            return 1 + longest_common(one[:-1], other[:-1])
        return max(longest_common(one[:-1], other), longest_common(one, other[:-1]))

    common = [longest_common(tuple(generated), tuple(reference)) for reference in references]
    precision = max(n / len(generated) for n in common)
    recall = max(n / len(reference) for n, reference in zip(common, references, strict=True))
    return 0.0 if not precision else (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def cider_d(generated, references):
    """CIDEr-D of each image (Vedantam et al. 2015, section 8): clipped TF-IDF cosines, a length penalty, times 10."""

    def ngrams(words, n):
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for words, own in zip(generated, references, strict=True):
        total = 0.0
        for n in range(1, 5):
            found_in = Counter(gram for texts in references for gram in {g for text in texts for g in ngrams(text, n)})

            def weights(text, n=n, found_in=found_in):
                idf = {gram: math.log(len(references) / max(1, found_in[gram])) for gram in ngrams(text, n)}
                return {gram: count * idf[gram] for gram, count in ngrams(text, n).items()}

            one = weights(words)
            for reference in own:
                other = weights(reference)
                clipped = sum(min(value, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, value in one.items())
                norm = math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))
                penalty = math.exp(-((len(words) - len(reference)) ** 2) / (2 * 6**2))
                total += penalty * (clipped / norm if norm else 0.0) / len(own)
        scores.append(10 * total / 4)
    return scores


REAL = importlib.util.find_spec("pycocoevalcap") is not None and shutil.which("java") is not None


needs_the_extra = pytest.mark.skipif(
    not REAL, reason="CIDEr and ROUGE-L need pip install 'vladva-kit[captions]' and Java (apt-get install default-jre)"
)


def check_against_plain_loops(result, captions, human):
    """Compare the score of each image with plain loops over lower-case words without punctuation."""

    def words(text):
        return text.lower().replace(",", "").rstrip(".!").split()

    tokens, references = [words(text) for text in captions], [[words(text) for text in texts] for texts in human]
    expected = {
        "CIDEr": cider_d(tokens, references),
        "ROUGE-L": [rouge_l(one, own) for one, own in zip(tokens, references, strict=True)],
    }
    for name, values in expected.items():
        assert [case.value for case in result.per_case() if case.score == name] == pytest.approx(values, abs=1e-9)
        assert result.scores[name].percent == pytest.approx(100 * np.mean(values))
    return expected


@needs_the_extra
def test_cider_and_rouge_of_the_real_library_equal_plain_loops(tmp_path, answers):
    human = [
        ["A red dog above a cat.", "a cat below a red dog"],
        ["Two birds, one of them blue!", "there are two birds on the grass"],
        ["a small car to the left of a tree", "A tree and a small car."],
        ["one bell", "a big yellow bell on snow"],
    ]
    captions = ["a red dog above a small cat", "Two blue birds on the grass.", "a tree to the left of a car", "a horse"]
    (tmp_path / "images").mkdir()
    entries = []
    for number, texts in enumerate(human):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        entries.append({"filename": f"{number}.png", "split": "test", "sentences": [{"raw": text} for text in texts]})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    generated = iter(captions)
    result = evaluate_captions(answers(lambda *_: next(generated)), tmp_path)
    assert all(values[0] > values[3] for values in check_against_plain_loops(result, captions, human).values())


@needs_the_extra
def test_cider_and_rouge_of_the_shipped_sample_equal_plain_loops(answers):
    file = vk.sample("captions_mini") / "dataset_coco.json"
    images = [one for one in json.loads(file.read_text())["images"] if one["split"] == "test"]
    human = [[sentence["raw"] for sentence in one["sentences"]] for one in images]
    captions = [human[index - index % 3][index % 6] for index in range(len(human))]  # a third are of their image
    generated = iter(captions)
    folder = vk.sample("sugarcrepe_mini") / "images"
    result = evaluate_captions(answers(lambda *_: next(generated)), file, folder)
    assert result.n == 40
    check_against_plain_loops(result, captions, human)
