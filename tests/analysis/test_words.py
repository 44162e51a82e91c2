"""Nearest tokens against a loop over the vocabulary; word importance against captions encoded one by one."""

import numpy as np
import pytest
import torch
from tiny import tiny_lvlm, tiny_pairs

import vladva_kit as vk
from vladva_kit.analysis import nearest_tokens, word_importance


def test_a_new_soft_prompt_is_nearest_to_its_hand_written_tokens():
    embedder = vk.attach(tiny_lvlm(), quiet=True)
    for prompt in ("image", "text"):
        nearest = nearest_tokens(embedder, prompt)
        assert nearest.unchanged == 1 and np.allclose(nearest.cosines[:, 0], 1, atol=1e-5)
        assert tuple(nearest.tokens[:, 0]) == nearest.hand_written
        assert prompt in nearest.hand_written


def test_a_moved_embedding_has_the_nearest_tokens_that_a_loop_finds():
    embedder = vk.attach(tiny_lvlm(), quiet=True)
    embedding = embedder.lvlm.model.get_input_embeddings()
    weight = embedding.soft_prompt.modules_to_save["default"].weight
    torch.manual_seed(0)
    with torch.no_grad():
        weight[1] = torch.randn_like(weight[1])
    nearest = nearest_tokens(embedder, "image", k=3)
    cosines = [float(torch.cosine_similarity(weight[1], row, dim=0).detach()) for row in embedding.weight]
    best = sorted(range(len(cosines)), key=lambda token: -cosines[token])[:3]
    assert list(nearest.tokens[1]) == embedder.lvlm.processor.tokenizer.convert_ids_to_tokens(best)
    assert np.allclose(nearest.cosines[1], [cosines[token] for token in best], atol=1e-5)
    assert nearest.unchanged < 1
    with embedder.base():
        assert nearest_tokens(embedder, "image").unchanged == 1


def test_importance_is_the_drop_of_the_score_without_the_word():
    embedder, image = vk.Embedder(tiny_lvlm()), tiny_pairs(1)[0].image
    result = word_importance(embedder, image, "a blue dog above a cat")
    encoded = embedder.encode_image([image])

    def score(caption):
        return float(embedder.similarity(encoded, embedder.encode_text([caption]))[0, 0])

    assert result.words == ("a", "blue", "dog", "above", "a", "cat")
    assert result.score == pytest.approx(score("a blue dog above a cat"), abs=1e-5)
    assert result.without[1] == pytest.approx(score("a dog above a cat"), abs=1e-5)
    assert result.importance[5] == pytest.approx(result.score - score("a blue dog above a"), abs=2e-5)


def test_a_caption_of_one_word_raises_an_error():
    with pytest.raises(ValueError, match="'dog' has 1 words"):
        word_importance(None, None, "dog")
