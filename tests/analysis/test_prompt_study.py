"""The prompt study: known words, figures as the evaluations give them, and correlations as pandas gives them."""

import numpy as np
import pandas
import pytest

import vladva_kit as vk
from vladva_kit.analysis.prompt_lists import EMOJI_PROMPTS, PLAIN_PROMPTS
from vladva_kit.analysis.prompt_study import as_dict, correlation, study_prompts


def test_there_are_fifty_different_pairs_in_either_list():
    for prompts in (EMOJI_PROMPTS, PLAIN_PROMPTS):
        assert len(prompts) == len(set(prompts)) == 50
        assert all(len(pair) == 2 and all(pair) for pair in prompts)


def test_emoji_llava_knows_every_word_of_its_prompts(lvlm):
    tokenizer = lvlm.processor.tokenizer
    for pair in EMOJI_PROMPTS:
        for prompt in pair:
            ids = tokenizer(prompt, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids, prompt


def test_figures_are_those_of_the_embedder_with_that_prompt(lvlm, pairs):
    results = study_prompts(lvlm, pairs, EMOJI_PROMPTS[:2])
    for found, words in zip(results, EMOJI_PROMPTS[:2], strict=True):
        assert (found.image_prompt, found.text_prompt) == words
        plain = [vk.Pair(pair.image, pair.short) for pair in pairs]
        judged = vk.evaluate_retrieval(vk.Embedder(lvlm, *words), plain)
        assert found.image_to_text == pytest.approx(judged.image_to_text[1].percent)
        assert found.text_to_image == pytest.approx(judged.text_to_image[1].percent)
        assert 0 < found.image_entropy < np.log(lvlm.model.config.text_config.vocab_size)
    assert results[0].image_entropy != results[1].image_entropy


def test_a_pair_without_a_short_caption_is_refused(lvlm, pairs):
    with pytest.raises(ValueError, match="no short caption"):
        study_prompts(lvlm, [vk.Pair(pairs[0].image, long=pairs[0].long)], EMOJI_PROMPTS[:1])


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_coefficients_are_those_of_pandas_ties_included(method):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 6, 50).astype(float)
    y = x + generator.normal(size=50) * 3
    own = pandas.DataFrame({"x": x, "y": y.round()}).corr(method=method).loc["x", "y"]
    found = correlation(x, y.round(), method)
    assert found.value == pytest.approx(own)
    assert found.low < found.value < found.high and found.n == 50


def test_a_perfect_order_has_an_interval_without_width():
    x = np.arange(20.0)
    assert correlation(x, x**3, "spearman").value == pytest.approx(1)
    assert correlation(x, -x, "pearson").high == pytest.approx(-1)


def test_constant_values_and_other_methods_are_refused(lvlm, pairs):
    with pytest.raises(ValueError, match="neither constant"):
        correlation([1, 2, 3], [5, 5, 5], "pearson")
    with pytest.raises(ValueError, match="'kendall'"):
        correlation([1, 2, 3], [1, 2, 3], "kendall")
    one = as_dict(study_prompts(lvlm, pairs[:3], EMOJI_PROMPTS[:1]), 3)
    assert one["correlations"] == {"spearman": None, "pearson": None} and one["n"] == 3
