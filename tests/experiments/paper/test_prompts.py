"""The prompt lists, the study against the evaluation's recall, correlations against pandas, and the command."""

import json

import numpy as np
import pandas
import pytest
from tiny import tiny_lvlm, tiny_pairs
from typer.testing import CliRunner

import vladva_kit as vk
from experiments.paper import prompts as prompts_module
from experiments.paper.__main__ import app
from experiments.paper.prompts import EMOJI_PROMPTS, PLAIN_PROMPTS, PRETRAINED_PROMPTS, correlation, study_prompts
from experiments.pretraining import tokenizer as pretraining

PAIRS = [vk.Pair(pair.image, pair.short) for pair in tiny_pairs(12) if pair.short]


@pytest.mark.parametrize("prompts", [EMOJI_PROMPTS, PLAIN_PROMPTS])
def test_each_list_has_fifty_different_pairs(prompts):
    assert len(prompts) == len(set(prompts)) == 50
    assert all(len(pair) == 2 and all(pair) and "|" not in "".join(pair) for pair in prompts)


def test_emoji_prompts_contain_only_known_words():
    tokenizer = tiny_lvlm().processor.tokenizer
    for prompt in (prompt for pair in EMOJI_PROMPTS for prompt in pair):
        assert tokenizer.unk_token_id not in tokenizer(prompt, add_special_tokens=False).input_ids, prompt


def test_recall_equals_that_of_the_evaluation_with_the_same_prompts():
    lvlm, log = tiny_lvlm(), []
    study = study_prompts(lvlm, PAIRS, EMOJI_PROMPTS[:3], log=log.append)
    assert study["n"] == len(PAIRS) and len(log) == 3
    for result, prompts in zip(study["prompts"], EMOJI_PROMPTS[:3], strict=True):
        assert (result["image_prompt"], result["text_prompt"]) == prompts
        expected = vk.evaluate_retrieval(vk.Embedder(lvlm, *prompts), PAIRS)
        assert result["image_to_text"] == pytest.approx(expected.image_to_text[1].percent)
        assert result["text_to_image"] == pytest.approx(expected.text_to_image[1].percent)
        assert 0 < result["image_entropy"] < np.log(lvlm.model.config.text_config.vocab_size)
    assert study["prompts"][0]["image_entropy"] != study["prompts"][1]["image_entropy"]


def test_prompts_of_the_pretraining_are_marked_and_not_in_the_correlations():
    assert PRETRAINED_PROMPTS == ((pretraining.IMAGE_PROMPT, pretraining.TEXT_PROMPT),)
    with_all = study_prompts(tiny_lvlm(), PAIRS, EMOJI_PROMPTS[:12])
    study = study_prompts(tiny_lvlm(), PAIRS, EMOJI_PROMPTS[:12], PRETRAINED_PROMPTS)
    assert [one["pretrained"] for one in study["prompts"]] == [True] + 11 * [False]
    assert [one["image_to_text"] for one in study["prompts"]] == [one["image_to_text"] for one in with_all["prompts"]]
    without = study_prompts(tiny_lvlm(), PAIRS, EMOJI_PROMPTS[1:12])
    assert study["correlations"] == without["correlations"] and study["correlations"]["spearman"]["n"] == 11


def test_a_single_prompt_has_no_correlation():
    assert study_prompts(tiny_lvlm(), PAIRS[:3], EMOJI_PROMPTS[:1])["correlations"] == {
        "spearman": None,
        "pearson": None,
    }


def test_a_pair_without_a_short_caption_raises_an_error():
    with pytest.raises(ValueError, match="pair 1 has no short caption"):
        study_prompts(None, [PAIRS[0], vk.Pair(PAIRS[0].image, long="a dog")], EMOJI_PROMPTS[:1])


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_correlations_equal_those_of_pandas_with_ties(method):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 6, 50).astype(float)
    y = (x + generator.normal(size=50) * 3).round()
    result = correlation(x, y, method)
    assert result["value"] == pytest.approx(pandas.DataFrame({"x": x, "y": y}).corr(method=method).loc["x", "y"])
    assert result["low"] < result["value"] < result["high"] and result["n"] == 50


def test_a_perfect_correlation_has_an_interval_of_no_width():
    x = np.arange(20.0)
    assert correlation(x, x**3, "spearman")["value"] == pytest.approx(1)
    assert correlation(x, -x, "pearson")["high"] == pytest.approx(-1)


def test_constant_values_and_unknown_methods_raise_errors():
    with pytest.raises(ValueError, match="neither constant"):
        correlation([1, 2, 3], [5, 5, 5], "pearson")
    with pytest.raises(ValueError, match="'kendall'"):
        correlation([1, 2, 3], [1, 2, 3], "kendall")


def test_the_command_writes_the_study_of_the_models_list_and_its_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(vk, "load_lvlm", lambda name: tiny_lvlm(), raising=False)
    monkeypatch.setattr(vk, "load_pairs", lambda folder, split: PAIRS, raising=False)
    monkeypatch.setattr(prompts_module, "EMOJI_PROMPTS", EMOJI_PROMPTS[:2])
    monkeypatch.setattr(prompts_module, "PLAIN_PROMPTS", PLAIN_PROMPTS[:3])
    for model, expected in (("emoji-llava", EMOJI_PROMPTS[:2]), ("another", PLAIN_PROMPTS[:3])):
        out = tmp_path / model
        done = CliRunner().invoke(app, ["prompts", model, "--n", "4", "--out", str(out)])
        assert done.exit_code == 0, done.output
        study = json.loads((out / "prompts.json").read_text())
        assert study["n"] == 4 and study["model"] == model
        assert study["prompts"][0]["pretrained"] is (model == "emoji-llava")
        assert [one["image_prompt"] for one in study["prompts"]] == [image for image, _ in expected]
        assert (out / "prompts.png").is_file() and (out / "prompts.svg").is_file()
