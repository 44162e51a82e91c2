"""Encoding a training batch gives the embeddings that `encode_image` and `encode_text` give."""

import pytest
import torch
from tiny import tiny_embedder, tiny_pairs
from torch.nn import functional as F

from vladva_kit.embedder.prompts import IGNORE_INDEX
from vladva_kit.training.collator import Collator
from vladva_kit.training.encode import count_target_tokens, encode_batch

pytestmark = pytest.mark.usefixtures("one_thread")


def test_embeddings_equal_the_embedders_although_long_captions_follow_the_prompt():
    embedder, pairs = tiny_embedder(), tiny_pairs(6)
    with torch.no_grad():
        encoded = encode_batch(embedder, Collator(embedder)(pairs)["batch"])
    images = embedder.encode_image([pair.image for pair in pairs])
    texts = embedder.encode_text([pair.short for pair in pairs if pair.short])
    negatives = embedder.encode_text([text for pair in pairs for text in pair.negatives])
    assert torch.allclose(encoded.images, images, atol=1e-5)
    assert torch.allclose(encoded.texts, texts, atol=1e-5)
    assert torch.allclose(encoded.negatives, negatives, atol=1e-5)


def test_the_next_token_loss_is_the_mean_over_all_target_tokens():
    embedder = tiny_embedder()
    batch = Collator(embedder)(tiny_pairs(6))["batch"]
    with torch.no_grad():
        loss = encode_batch(embedder, batch).next_token
        logits = embedder.logits(embedder.hidden_states(batch.images))[:, :-1]
    labels = batch.images.labels[:, 1:]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert count_target_tokens(batch.images, torch.device("cpu")) == int((labels != IGNORE_INDEX).sum()) > 0


def test_a_batch_without_texts_and_long_captions_has_none_of_them():
    embedder = tiny_embedder()
    encoded = encode_batch(embedder, Collator(embedder, next_token=False)([tiny_pairs(5)[4]])["batch"])
    assert encoded.texts.shape == (0, 64) and encoded.negatives is None
    assert float(encoded.next_token.detach()) == 0 and encoded.next_token.requires_grad
