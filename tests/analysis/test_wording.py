"""Nearest words by a loop over the vocabulary; a word's weight by encoding each shortened caption by itself."""

import numpy as np
import pytest
import torch

import vladva_kit as vk
from vladva_kit.analysis import leave_one_word_out, nearest_words


def test_a_new_soft_prompt_reads_as_its_hand_written_words(lvlm):
    embedder = vk.attach(lvlm)
    for prompt in ("image", "text"):
        found = nearest_words(embedder, prompt)
        assert found.unchanged == 1 and np.allclose(found.cosines[:, 0], 1, atol=1e-5)
        assert tuple(found.words[:, 0]) == found.hand_written
    assert "image" in nearest_words(embedder, "image").hand_written
    assert "text" in nearest_words(embedder, "text").hand_written


def test_a_moved_row_reads_as_the_word_that_a_loop_finds(lvlm):
    embedder = vk.attach(lvlm)
    weight = lvlm.model.get_input_embeddings().soft_prompt.modules_to_save["default"].weight
    torch.manual_seed(0)
    with torch.no_grad():
        weight[1] = torch.randn_like(weight[1])
    found, table = nearest_words(embedder, "image", k=3), lvlm.model.get_input_embeddings().weight
    cosines = [float(torch.cosine_similarity(weight[1], row, dim=0).detach()) for row in table]
    best = sorted(range(len(cosines)), key=lambda number: -cosines[number])[:3]
    tokenizer = lvlm.processor.tokenizer
    assert list(found.words[1]) == [tokenizer.convert_ids_to_tokens(number) for number in best]
    assert np.allclose(found.cosines[1], [cosines[number] for number in best], atol=1e-5)
    with embedder.base():
        assert nearest_words(embedder, "image").unchanged == 1


def test_a_words_weight_is_what_the_score_loses_without_it(lvlm, pictures):
    embedder = vk.Embedder(lvlm)
    found = leave_one_word_out(embedder, pictures[0], "a blue dog above a cat")
    image = embedder.encode_image([pictures[0]])

    def scored(caption):
        return float(embedder.similarity(image, embedder.encode_text([caption]))[0, 0])

    assert found.words == ("a", "blue", "dog", "above", "a", "cat")
    assert found.score == pytest.approx(scored("a blue dog above a cat"), abs=1e-5)
    assert found.without[1] == pytest.approx(scored("a dog above a cat"), abs=1e-5)
    assert found.weights[5] == pytest.approx(found.score - scored("a blue dog above a"), abs=2e-5)


def test_a_caption_of_one_word_is_refused(lvlm, pictures):
    with pytest.raises(ValueError, match="'dog' has 1 words"):
        leave_one_word_out(vk.Embedder(lvlm), pictures[0], "dog")
