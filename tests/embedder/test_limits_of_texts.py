"""Long texts are refused before the model runs, and batches are limited by tokens; memory shortages name the fix."""

import pytest
import torch
from tiny import tiny_embedder, tiny_pairs

import vladva_kit as vk
from vladva_kit.embedder import prompts
from vladva_kit.models.device import MemoryShortage

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


@pytest.mark.parametrize("text", ["a dog " * 2000, "x" * 100_000, "x" * 10_000_000], ids=len)
def test_a_long_text_is_refused_by_name_before_the_model_runs(embedder, monkeypatch, text):
    monkeypatch.setattr(type(embedder.lvlm.model.model), "forward", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(vk.BadInput, match=r"caption 1 has [\d,]+ (tokens, and the limit is 1,024|characters): shorten"):
        embedder.encode_text(["a dog", text])
    with pytest.raises(vk.BadInput, match="caption 1 has"):
        vk.likelihood(embedder, [tiny_pairs(1)[0].image], ["a dog", text])


def test_a_long_question_is_refused_before_the_model_runs(embedder, monkeypatch):
    monkeypatch.setattr(type(embedder.lvlm.model.model), "forward", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(vk.BadInput, match=r"prompt 0 with its history has [\d,]+ tokens, and the limit is 8,192"):
        embedder.generate(None, "a dog " * 8000)


def test_one_long_text_among_short_ones_gets_its_own_batch(embedder, monkeypatch):
    texts = [f"a{' dog' * n}" for n in range(1, 10)] + ["a red cat " * 30] + [f"two{' cats' * n}" for n in range(1, 10)]
    expected, shapes = embedder.encode_text(texts), []
    hidden_states = type(embedder).hidden_states
    monkeypatch.setattr(prompts, "MAX_BATCH_TOKENS", 100)
    monkeypatch.setattr(
        type(embedder),
        "hidden_states",
        lambda self, batch, *prefix: (
            shapes.append(batch.inputs["input_ids"].shape) or hidden_states(self, batch, *prefix)
        ),
    )
    assert torch.allclose(embedder.encode_text(texts), expected, atol=1e-5)
    assert sum(rows for rows, _ in shapes) == 19 and shapes[-1][0] == 1


def test_batches_of_tokens_cover_all_texts_once():
    for lengths in ([], [5], [1] * 10, list(range(1, 40)), [40_000, 40_001]):
        spans = list(prompts.token_batches(lengths, 4))
        assert [row for start, end in spans for row in range(start, end)] == list(range(len(lengths)))
        assert all(0 < end - start <= 4 for start, end in spans)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
def test_a_memory_shortage_while_encoding_names_the_batch_size(embedder, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(type(embedder.lvlm.model.model), "forward", fail)
    with pytest.raises(MemoryShortage, match="out of memory while encoding with batch_size=32: pass batch_size=8"):
        embedder.encode_text(["a dog"], batch_size=32)
    with pytest.raises(MemoryShortage, match="batch_size=1: load the model with max_pixels="):
        embedder.encode_image([tiny_pairs(1)[0].image], batch_size=1)
