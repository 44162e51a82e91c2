"""The fine-tune: one forward for both losses, what is learned, what an interruption costs, and what is refused."""

import re

import pytest
import torch
from tiny import tiny_embedder, tiny_pairs
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.embedder.embedder import summary_states
from vladva_kit.embedder.prompts import encode_caption, image_inputs, text_inputs
from vladva_kit.training.trainer import Collator, step_losses


def quick(**changes):
    return vk.Settings(**{"steps": 3, "batch_size": 6, "warmup": 1, **changes})


def test_the_step_equals_thirty_plain_lines(lvlm, pairs):
    embedder = vk.attach(lvlm)
    processor, tokenizer, model = lvlm.processor, lvlm.processor.tokenizer, lvlm.model
    figures = step_losses(embedder, Collator(embedder)(pairs)["batch"])

    contrast, learned, counted, images, texts = 0.0, 0.0, 0, [], []
    for pair in pairs:  # one pair at a time: no batch, no padding
        caption = [*encode_caption(tokenizer, pair.long), tokenizer.eos_token_id]
        sequence = image_inputs(processor, [pair.image], embedder.image_prompt, [caption])
        states = embedder.hidden_states(sequence)
        images.append(F.normalize(summary_states(states, sequence)[0], dim=-1))
        logits = model.lm_head(states[0, int(sequence.summary[0]) : -1])
        learned += F.cross_entropy(logits, torch.tensor(caption), reduction="sum")
        counted += len(caption)
        sequence = text_inputs(tokenizer, [pair.short], embedder.text_prompt)
        texts.append(F.normalize(summary_states(embedder.hidden_states(sequence), sequence)[0], dim=-1))
    logits = torch.stack(images) @ torch.stack(texts).T / 0.07
    contrast = (F.cross_entropy(logits, torch.arange(12)) + F.cross_entropy(logits.T, torch.arange(12))) / 2

    assert len({pair.short for pair in pairs}) == 12
    assert float(figures["contrastive"]) == pytest.approx(float(contrast), rel=1e-4)
    assert float(figures["next_token"]) == pytest.approx(float(learned / counted), rel=1e-4)
    assert float(figures["loss"]) == pytest.approx(float(contrast + learned / counted), rel=1e-4)


def test_in_the_step_the_same_caption_is_nobodys_negative():
    embedder = tiny_embedder()
    captions = ["a dog on the car", "two cats", "A dog  on the car", "a small cat", "two cats", "a red car"]
    negatives = ["a dog on the car", "a blue car"]  # hard ones; the first is what two of the pictures show
    pictures = [pair.image for pair in tiny_pairs(len(captions))]
    pairs = [vk.Pair(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    pairs[3] = vk.Pair(pictures[3], captions[3], negatives=negatives)
    images, texts, extra = (
        embedder.encode_image(pictures),
        embedder.encode_text(captions),
        embedder.encode_text(negatives),
    )

    def by_hand(same):
        total = 0.0
        for i, own in enumerate(captions):
            others = [j for j in range(len(captions)) if j == i or not same(captions[j], own)]
            hard = [k for k in range(len(negatives)) if not same(negatives[k], own)]
            told = torch.stack([*(images[i] @ texts[j] for j in others), *(images[i] @ extra[k] for k in hard)]) / 0.07
            seen = torch.stack([texts[i] @ images[j] for j in others]) / 0.07
            total += float(F.cross_entropy(told, torch.tensor(others.index(i))))
            total += float(F.cross_entropy(seen, torch.tensor(others.index(i))))
        return total / (2 * len(captions))

    with torch.no_grad():
        ours = float(step_losses(embedder, Collator(embedder)(pairs)["batch"])["contrastive"])
    assert ours == pytest.approx(by_hand(lambda one, other: one.lower().split() == other.lower().split()), rel=1e-4)
    assert ours < by_hand(lambda one, other: False) - 0.01


def test_training_lowers_both_losses(lvlm, pairs):
    history = vk.fit(vk.attach(lvlm), pairs, quick(steps=12, batch_size=12), progress=False)
    assert history[-1]["contrastive"] < history[0]["contrastive"]
    assert history[-1]["next_token"] < history[0]["next_token"]
    assert [row["step"] for row in history] == list(range(1, 13))
    assert {"seconds", "loss", "accuracy", "temperature"} <= history[-1].keys()


def test_gradients_reach_soft_prompts_lora_and_temperature_and_nothing_else(lvlm, pairs):
    embedder = vk.attach(lvlm)
    for name, parameter in lvlm.model.named_parameters():
        if "lora_B" in name:  # at zero, no gradient passes to its other half
            torch.nn.init.normal_(parameter, std=0.01)
    step_losses(embedder, Collator(embedder)(pairs)["batch"])["loss"].backward()
    reached = {name for name, p in lvlm.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    learning = {name for name, p in lvlm.model.named_parameters() if p.requires_grad}
    assert reached == learning
    assert all(any(part in name for part in ("lora_", "soft_prompt", "temperature")) for name in reached)


def test_the_bar_shows_loss_accuracy_and_speed(capsys):
    history = vk.fit(tiny_embedder(), tiny_pairs(9), quick(batch_size=4))
    shown = capsys.readouterr().err
    assert "3/3" in shown
    last = history[-1]
    assert f"loss {last['loss']:.2f}, in-batch accuracy {last['accuracy']:.0%}, " in shown
    assert re.search(r"\d+ pairs/s", shown)
    vk.fit(tiny_embedder(), tiny_pairs(9), quick(batch_size=4), progress=False)
    assert "pairs/s" not in capsys.readouterr().err


def test_the_same_seed_gives_the_same_figures(pairs):
    runs = [vk.fit(vk.attach(vk.load_lvlm()), pairs, quick(), progress=False) for _ in range(2)]
    assert [row["loss"] for row in runs[0]] == [row["loss"] for row in runs[1]]


def test_a_checkpoint_asks_no_hub_whether_the_embeddings_changed(pairs, tmp_path, monkeypatch):
    def asked(model_id, file):
        raise AssertionError(f"asked the hub for {model_id}'s {file}")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", asked)
    vk.fit(vk.attach(vk.load_lvlm()), pairs, quick(steps=1, output_dir=str(tmp_path), save_every=1), progress=False)
    assert (tmp_path / "checkpoint-1" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("own", [None, 0.01], ids=["one rate", "two rates"])
def test_an_interrupted_run_goes_on_and_ends_where_the_whole_one_ends(pairs, tmp_path, own):
    def quick(**changes):
        return vk.Settings(batch_size=6, warmup=1, soft_prompt_learning_rate=own, **changes)

    whole = vk.attach(vk.load_lvlm())
    vk.fit(whole, pairs, quick(steps=4, output_dir=str(tmp_path / "whole"), save_every=2), progress=False)
    halted = vk.attach(vk.load_lvlm())
    told = iter([False, False, True])  # stopped after the third step; the second was the last saved
    settings = quick(steps=4, output_dir=str(tmp_path / "halted"), save_every=2)
    vk.fit(halted, pairs, settings, progress=False, deadline=lambda: next(told))
    resumed = vk.attach(vk.load_lvlm())
    (tmp_path / "halted" / "checkpoint-3").mkdir()  # as a kill in the middle of a save would leave it
    history = vk.fit(resumed, pairs, quick(steps=4, output_dir=str(tmp_path / "halted"), resume=True), progress=False)
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds) and seconds[1] > 0
    images = [pair.image for pair in pairs]
    assert torch.allclose(resumed.encode_image(images), whole.encode_image(images), atol=1e-5)


def test_pairs_that_lack_a_caption_serve_with_the_other(lvlm, pairs):
    mixed = [vk.Pair(p.image, p.short if i % 2 else None, p.long if i % 3 else None) for i, p in enumerate(pairs)]
    mixed = [pair for pair in mixed if pair.short or pair.long]
    embedder = vk.attach(lvlm)
    batch = Collator(embedder)(mixed)["batch"]
    assert len(batch.paired) == sum(bool(pair.short) for pair in mixed)
    assert (batch.images.labels != -100).any(1).sum() == sum(bool(pair.long) for pair in mixed)
    figures = step_losses(embedder, batch)
    assert float(figures["contrastive"]) > 0 and float(figures["next_token"]) > 0


def test_the_temperature_can_be_kept_fixed(lvlm, pairs):
    history = vk.fit(vk.attach(lvlm, temperature=0.05), pairs, quick(learn_temperature=False), progress=False)
    assert all(row["temperature"] == pytest.approx(0.05) for row in history)


def moved(embedder, before):
    """The farthest that any number moved, in the soft prompts and in all else that learns."""
    steps = {True: 0.0, False: 0.0}
    for name, weight in embedder.lvlm.adapter.named_parameters():
        if weight.requires_grad:
            own = ".soft_prompt." in name
            steps[own] = max(steps[own], float((weight.detach() - before[name]).abs().max()))
    return steps[True], steps[False]


@pytest.mark.parametrize("own, expected", [(None, 1e-3), (0.05, 0.05)])
def test_the_soft_prompts_can_learn_at_a_rate_of_their_own(lvlm, pairs, own, expected):
    embedder = vk.attach(lvlm)
    before = {name: weight.detach().clone() for name, weight in embedder.lvlm.adapter.named_parameters()}
    settings = quick(steps=1, warmup=0, learning_rate=1e-3, soft_prompt_learning_rate=own)
    vk.fit(embedder, pairs, settings, progress=False)
    assert moved(embedder, before) == pytest.approx((expected, 1e-3), rel=0.01)  # AdamW's first step is its rate


def test_a_rate_for_soft_prompts_that_are_not_there_is_refused(lvlm, pairs):
    with pytest.raises(ValueError, match=r"soft_prompt_learning_rate=0.05 has nothing to train: attach"):
        vk.fit(vk.attach(lvlm, soft_prompt=False), pairs, quick(soft_prompt_learning_rate=0.05), progress=False)


def test_a_baseline_cannot_be_trained(lvlm, pairs):
    with pytest.raises(ValueError, match="attach"):
        vk.fit(vk.Embedder(lvlm), pairs, quick())


def test_fewer_pairs_than_a_batch_are_refused(lvlm, pairs):
    with pytest.raises(ValueError, match="12 pairs do not fill one batch of 64"):
        vk.fit(vk.attach(lvlm), pairs, quick(batch_size=64))


def test_a_caption_over_the_limit_is_named(lvlm, pairs):
    endless = vk.Pair(pairs[0].image, pairs[0].short, "a dog " * 300)
    with pytest.raises(vk.BadInput, match="600"):
        vk.fit(vk.attach(lvlm), [*pairs, endless], quick())


def test_a_new_run_does_not_mix_with_an_older_ones_checkpoints(lvlm, pairs, tmp_path):
    settings = quick(output_dir=str(tmp_path), save_every=2)
    embedder = vk.attach(lvlm)
    vk.fit(embedder, pairs, settings, progress=False)
    with pytest.raises(ValueError, match="earlier run"):
        vk.fit(embedder, pairs, settings, progress=False)


def test_a_batch_that_holds_nothing_for_either_loss_changes_nothing(lvlm, pairs):
    embedder = vk.attach(lvlm)
    lone = [vk.Pair(pairs[0].image, pairs[0].short)]
    loss = step_losses(embedder, Collator(embedder)(lone)["batch"])["loss"]
    loss.backward()
    assert float(loss.detach()) == 0


def test_resuming_without_a_folder_is_refused(lvlm, pairs):
    with pytest.raises(ValueError, match="output_dir"):
        vk.fit(vk.attach(lvlm), pairs, quick(resume=True), progress=False)
