"""Likelihood with a shared prefix against one plain forward pass per pair, in all twelve families."""

import pytest
import tiny_families
import torch
from tiny import randomize_lora

import vladva_kit as vk
from vladva_kit.checks import example_images
from vladva_kit.embedder import continuation
from vladva_kit.embedder import likelihood as module
from vladva_kit.embedder.likelihood import Cost, LikelihoodScorer, answer_ids, likelihood_cost
from vladva_kit.embedder.prompts import SHORT_REQUEST
from vladva_kit.models.families import FAMILIES
from vladva_kit.models.images import BadInput

pytestmark = pytest.mark.usefixtures("one_thread")
QUESTION = "is there {} ]"  # no token of the toy tokenizers spans the caption and the rest
CAPTIONS = ["a dog", "two red balls lie on green grass, left of the house", "a", "a cat chases a dog", "water"]


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    options = {"lines": f"{tiny_families.LINES} is there yes no Yes No", "tokens": 500}
    folder = tiny_families.build(request.param, tmp_path_factory.mktemp(request.param), **options)
    return vk.load_lvlm(str(folder), dtype=torch.float32)


def turn(lvlm, words, with_image):
    """The request as the family's documentation writes it, up to where the answer starts."""
    if lvlm.family.model_type == "paligemma":
        return f"<image>{words}" if with_image else f"<bos>{words}\n"
    content = [{"type": "image"}] * with_image + [{"type": "text", "text": words}]
    return lvlm.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def asked(lvlm, image, words):
    text, paligemma = turn(lvlm, words, image is not None), lvlm.family.model_type == "paligemma"
    if image is None:
        options = {"return_token_type_ids": True} if paligemma else {}
        special = not text.startswith("<bos>")
        return dict(lvlm.processor.tokenizer(text, return_tensors="pt", add_special_tokens=special, **options))
    options = {"return_tensors": "pt", "add_special_tokens": not text.startswith("<bos>")}
    batch = dict(lvlm.processor(images=[[image]], text=[text], **options))
    batch.pop("labels", None)
    return batch


@torch.no_grad()
def plain_log_probabilities(lvlm, image, caption):
    """Append the caption by hand, run the whole sequence, and read each token's log-probability."""
    batch = asked(lvlm, image, SHORT_REQUEST)
    ids = lvlm.processor.tokenizer(caption, add_special_tokens=False, return_tensors="pt").input_ids
    n, length = ids.shape[1], batch["input_ids"].shape[1]
    for key in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "cross_attention_mask"):
        if key in batch:
            tail = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}.get(key, torch.zeros_like(ids))
            if key == "token_type_ids" and lvlm.family.model_type == "paligemma":
                tail = torch.ones_like(ids)
            if key == "cross_attention_mask":
                tail = batch[key][:, -1:].repeat(1, n, 1, 1)
            batch[key] = torch.cat([batch[key], tail], 1)
    logits = lvlm.model(**batch, use_cache=False).logits[0].float().log_softmax(-1)
    return logits[length - 1 : length - 1 + n].gather(1, ids[0][:, None])[:, 0]


def test_the_shared_prefix_gives_the_scores_of_plain_pairs(tiny):
    images = [*example_images(), example_images()[0].rotate(180)]
    rows = [[plain_log_probabilities(tiny, image, caption) for caption in CAPTIONS] for image in images]
    expected = torch.stack([torch.stack([one.mean() for one in row]) for row in rows])
    summed = torch.stack([torch.stack([one.sum() for one in row]) for row in rows])
    alone = torch.stack([plain_log_probabilities(tiny, None, caption).sum() for caption in CAPTIONS])
    assert expected.std() > 1e-3 and (expected[0] - expected[1]).abs().max() > 1e-4
    assert torch.allclose(vk.likelihood(tiny, images, CAPTIONS), expected, atol=1e-4)
    assert torch.allclose(vk.likelihood(tiny, images, CAPTIONS, batch_size=2), expected, atol=1e-4)
    assert torch.allclose(vk.likelihood(tiny, images, CAPTIONS, share_prefix=False), expected, atol=1e-4)
    debiased = vk.likelihood(tiny, images, CAPTIONS, reduce="sum", alpha=0.5)
    assert torch.allclose(debiased, summed - 0.5 * alone, atol=1e-4)
    chosen = [(0, 1), (2, 0), (0, 4), (3, 3), (1, 1), (0, 1)]
    pairs = vk.likelihood(tiny, [images[i] for i, _ in chosen], [CAPTIONS[c] for _, c in chosen], paired=True)
    assert torch.allclose(pairs, torch.stack([expected[i, c] for i, c in chosen]), atol=1e-4)


def test_yes_probability_equals_the_next_token_distribution_after_the_question(tiny):
    images = example_images()
    yes, no = answer_ids(tiny)
    expected = torch.zeros(3, len(CAPTIONS))
    for i, image in enumerate(images):
        for c, caption in enumerate(CAPTIONS):
            with torch.no_grad():
                logits = (
                    tiny.model(**asked(tiny, image, QUESTION.format(caption)), use_cache=False).logits[0, -1].float()
                )
            both = logits.softmax(-1)
            expected[i, c] = both[yes].sum() / (both[yes].sum() + both[no].sum())
    actual = vk.yes_probability(tiny, images, CAPTIONS, question=QUESTION)
    assert torch.allclose(actual, expected, atol=1e-4) and actual.std() > 1e-4
    assert torch.allclose(
        vk.yes_probability(tiny, images, CAPTIONS, question=QUESTION, batch_size=2), actual, atol=1e-4
    )


@pytest.fixture
def image():
    return example_images()[0]


def test_an_lvlm_is_scored_without_its_adapter_and_an_embedder_as_it_embeds(lvlm, image):
    before = vk.likelihood(lvlm, [image], CAPTIONS)
    embedder = vk.attach(lvlm, quiet=True)
    randomize_lora(embedder)
    adapted = vk.likelihood(embedder, [image], CAPTIONS)
    with embedder.base():
        assert torch.equal(vk.likelihood(embedder, [image], CAPTIONS), before)
    assert torch.equal(vk.likelihood(lvlm, [image], CAPTIONS), before)
    assert (adapted - before).abs().max() > 1e-4
    assert torch.allclose(vk.likelihood(embedder, [image], CAPTIONS, share_prefix=False), adapted, atol=1e-4)


def test_the_image_is_encoded_once_and_logits_are_computed_for_caption_tokens_only(lvlm, image, monkeypatch):
    prefixes, logits = [], []
    forward, head = lvlm.model.model.forward, lvlm.model.lm_head.forward
    monkeypatch.setattr(
        lvlm.model.model, "forward", lambda **inputs: prefixes.append("pixel_values" in inputs) or forward(**inputs)
    )
    monkeypatch.setattr(lvlm.model.lm_head, "forward", lambda states: logits.append(len(states)) or head(states))
    vk.likelihood(lvlm, [image, image.copy()], CAPTIONS, batch_size=2)
    tokens = sum(len(ids) for ids in lvlm.processor.tokenizer(CAPTIONS, add_special_tokens=False).input_ids)
    assert prefixes.count(True) == 2
    assert sum(one for one in logits if one != 1) <= 2 * tokens <= sum(logits)


def test_an_interrupted_run_leaves_the_embedder_as_it_was(lvlm, image, monkeypatch):
    embedder = vk.attach(lvlm, quiet=True)
    randomize_lora(embedder)
    lvlm.model.train()
    before, embedding = vk.likelihood(embedder, [image], CAPTIONS), embedder.encode_image([image])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), embedder.base():
        patch.setattr(continuation, "summary_states", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        vk.likelihood(embedder, [image], CAPTIONS)
    assert lvlm.model.training and embedder.adapted and torch.is_grad_enabled()
    assert torch.equal(vk.likelihood(embedder, [image], CAPTIONS), before)
    assert torch.equal(embedder.encode_image([image]), embedding)


def test_nan_states_give_nan_scores(lvlm, image):
    lvlm.model.model.language_model.norm.weight.data[:] = float("nan")
    assert vk.likelihood(lvlm, [image], CAPTIONS).isnan().all()


def test_special_tokens_in_captions_are_plain_text(lvlm, image):
    assert vk.likelihood(lvlm, [image], ["a <image> dog <eos>"]).isfinite().all()
    assert vk.yes_probability(lvlm, [image], ["a <image> dog <eos>"]).isfinite().all()


def test_unusable_input_is_explained(lvlm, image, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="caption 1 is empty: .* leave it out"):
        vk.likelihood(lvlm, [image], ["a dog", " "])
    with pytest.raises(BadInput, match=r"image 2 \(.*broken.png\) cannot be read .*; replace it or leave it out"):
        vk.likelihood(lvlm, [image, image, tmp_path / "broken.png"], ["a", "dog", "cat"], paired=True)
    with pytest.raises(TypeError, match="single image; put it in a list"):
        vk.likelihood(lvlm, image, ["a dog"])
    with pytest.raises(TypeError, match="list of captions is needed; got one string, 'a dog'"):
        vk.likelihood(lvlm, [image], "a dog")
    with pytest.raises(ValueError, match="1 images for 2 captions: with paired=True, pass one of each"):
        vk.likelihood(lvlm, [image], ["a dog", "a cat"], paired=True)
    with pytest.raises(ValueError, match="reduce is 'max'; pass 'mean' or 'sum'"):
        vk.likelihood(lvlm, [image], ["a dog"], reduce="max")
    with pytest.raises(ValueError, match="alpha is nan; pass a finite number"):
        vk.likelihood(lvlm, [image], ["a dog"], alpha=float("nan"))
    with pytest.raises(TypeError, match="a ClipEmbedder has no likelihood: pass an LVLM or an Embedder"):
        LikelihoodScorer(vk.load_baseline()).similarity([image], ["a dog"])
    with pytest.raises(ValueError, match="splits 'maybe not' into 2 tokens, .*: pass answers="):
        vk.yes_probability(lvlm, [image], ["a dog"], answers=("yes", "maybe not"))
    with pytest.raises(ValueError, match="does not know 'absolutely', so"):
        vk.yes_probability(lvlm, [image], ["a dog"], answers=("absolutely", "no"))
    with pytest.raises(ValueError, match=r"answers is \('yes',\); pass two words"):
        vk.yes_probability(lvlm, [image], ["a dog"], answers=("yes",))
    with pytest.raises(ValueError, match="have a token in common in tiny: pass two different words"):
        vk.yes_probability(lvlm, [image], ["a dog"], answers=("yes", "Yes"))
    with pytest.raises(ValueError, match="must contain {} once"):
        vk.yes_probability(lvlm, [image], ["a dog"], question="is there a dog?")
    lvlm.processor.chat_template = "{{ bos_token }}<image>"
    with pytest.raises(ValueError, match="tokens cannot be located for tiny, family 'llava' .*: give the processor a"):
        vk.likelihood(lvlm, [image], ["a dog"])


def test_a_large_run_is_announced_and_a_scorer_refuses_it_with_its_cost(lvlm, image, monkeypatch, capsys):
    cost = likelihood_cost(lvlm, [image] * 500, CAPTIONS)
    assert (cost.images, cost.captions, cost.scores) == (500, 5, 2500) and cost.seconds > 0
    assert str(Cost(2500, 10, 25_000, 240)) == "2,500 images x 10 captions: 25,000 scores, about 4 minutes"
    monkeypatch.setattr(module, "LARGE", 4)
    vk.likelihood(lvlm, [image], CAPTIONS)
    assert "1 images x 5 captions: 5 scores, about" in capsys.readouterr().out
    vk.likelihood(lvlm, [image], CAPTIONS, progress=False)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="2 images x 5 captions: 10 scores, about .* more than max_scores=9: embed"):
        LikelihoodScorer(lvlm, max_scores=9).similarity([image] * 2, CAPTIONS)


def test_a_scorer_scores_all_pairs_or_given_ones_with_its_options(lvlm, image):
    images = [image, example_images()[1]]
    scorer = LikelihoodScorer(lvlm, reduce="sum", alpha=0.3)
    expected = vk.likelihood(lvlm, images, CAPTIONS, reduce="sum", alpha=0.3)
    assert torch.allclose(scorer.similarity(images, CAPTIONS), expected, atol=1e-5)
    assert torch.allclose(scorer.score_pairs(images, CAPTIONS[:2]), expected[range(2), range(2)], atol=1e-4)
    asked = LikelihoodScorer(lvlm, question="is there {}?")
    expected = vk.yes_probability(lvlm, images, CAPTIONS, question="is there {}?")
    assert torch.equal(asked.similarity(images, CAPTIONS), expected)
    assert len({scorer.fingerprint, asked.fingerprint, LikelihoodScorer(lvlm).fingerprint}) == 3
