"""The script that compares vLLM's vectors: its prompts are the export's, and its report finds differences.

vLLM itself is replaced: transformers computes what it is asked for.
"""

import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_embedder, tiny_pairs
from transformers import AutoModel, AutoProcessor

import vladva_kit as vk
from vladva_kit.embedder.export import export

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "compare_with_vllm.py"))
pytestmark = pytest.mark.usefixtures("one_thread")


class FakeLLM:
    """vLLM's `LLM.embed`, computed by transformers: the last token's state."""

    def __init__(self, model, runner, convert, limit_mm_per_prompt):
        assert (runner, convert, limit_mm_per_prompt) == ("pooling", "embed", {"image": 1})
        self.model, self.processor = AutoModel.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)

    @torch.inference_mode()
    def embed(self, requests, tokenization_kwargs):
        vectors = []
        for request in requests:
            image = request.get("multi_modal_data", {}).get("image")
            options = {"text": [request["prompt"]], "return_tensors": "pt", **tokenization_kwargs}
            inputs = self.processor(images=[image], **options) if image else self.processor.tokenizer(**options)
            vectors.append(self.model(**inputs).last_hidden_state[0, -1].tolist())
        return [SimpleNamespace(outputs=SimpleNamespace(embedding=vector)) for vector in vectors]


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeLLM))
    embedder = tiny_embedder()
    return embedder, str(export(embedder, tmp_path / "exported"))


def test_its_prompts_give_the_kits_vectors(exported):
    embedder, folder = exported
    pairs = [pair for pair in tiny_pairs(6) if pair.short]
    images, texts = [pair.load_image() for pair in pairs], [pair.short for pair in pairs]
    ours = torch.cat([embedder.encode_image(images), embedder.encode_text(texts)])
    theirs = SCRIPT["vllm_vectors"](folder, images, texts)
    assert torch.allclose(theirs, ours, atol=2e-5)
    lines, equal = SCRIPT["report"](ours, theirs, len(images))
    assert (
        equal and lines[0] == "images: least cosine 1.00000" and lines[2].startswith("nearest caption of an image: 0")
    )


def test_its_report_finds_another_vector_and_another_ranking():
    ours = torch.eye(4)
    assert SCRIPT["report"](ours, ours, 2)[1]
    turned = ours.clone()
    turned[3] = torch.tensor([0.0, 0.0, 0.6, 0.8])
    lines, equal = SCRIPT["report"](ours, turned, 2)
    assert not equal and lines[1] == "texts: least cosine 0.80000"
    caption, other = [0.0, 1.0], [1.0, 0.0]
    lines, equal = SCRIPT["report"](torch.tensor([caption, caption, other]), torch.tensor([other, caption, other]), 1)
    assert not equal and lines[2] == "nearest caption of an image: 1 of 1 differ"


@pytest.mark.skipif(not importlib.util.find_spec("sentence_transformers"), reason="needs sentence-transformers")
def test_it_prints_whether_the_vectors_are_equal(exported, capsys):
    assert SCRIPT["main"](exported[1], str(vk.sample("photos"))) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal"
