"""Fine-tuning runs: losses fall, runs repeat and resume, learning rates, bad input."""

import re

import pytest
import torch
from tiny import CAPTIONS, fit, small, stop_after, tiny_embedder, tiny_lvlm, tiny_pairs

import vladva_kit as vk
from vladva_kit.embedder.adapter import BadAdapter, adapter_state
from vladva_kit.training.collator import ByLength

pytestmark = pytest.mark.usefixtures("one_thread")


def test_training_lowers_both_losses():
    history = fit(tiny_embedder(), small(steps=12, batch_size=12, learning_rate=5e-3))
    assert history[-1]["contrastive"] < history[0]["contrastive"]
    assert history[-1]["next_token"] < history[0]["next_token"]
    assert [row["step"] for row in history] == list(range(1, 13))


def test_the_same_seed_repeats_a_run_and_another_seed_does_not():
    runs = [[row["loss"] for row in fit(tiny_embedder(), small(seed=seed))] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_micro_batches_and_layer_checkpointing_do_not_change_a_run():
    micro_batches = {"micro_batch_size": 3}
    runs = [
        fit(tiny_embedder(), small(batch_size=8, **changes))
        for changes in ({}, micro_batches, {**micro_batches, "gradient_checkpointing": True})
    ]
    for run in runs[1:]:
        for name in ("loss", "contrastive", "next_token", "accuracy", "temperature"):
            assert [row[name] for row in run] == pytest.approx([row[name] for row in runs[0]], rel=1e-4)


def test_the_bar_shows_the_last_steps_metrics(capsys):
    last = vk.fit(tiny_embedder(), tiny_pairs(12), small())[-1]
    output = capsys.readouterr().err
    assert "3/3" in output and re.search(r"\d+ pairs/s", output)
    assert f"loss {last['loss']:.2f}, in-batch accuracy {last['accuracy']:.0%}, " in output


@pytest.mark.parametrize("soft_prompt_learning_rate", [None, 0.01], ids=["one rate", "two rates"])
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path, soft_prompt_learning_rate):
    def run(folder, **options):
        embedder, settings = tiny_embedder(), {"soft_prompt_learning_rate": soft_prompt_learning_rate}
        settings |= {"steps": 4, "save_every": 2, "validate_every": 1, "resume": options.pop("resume", False)}
        validation = lambda embedder: {"score": float(embedder.encode_text(CAPTIONS)[0, 0])}  # noqa: E731
        history = fit(embedder, small(output_dir=str(folder), **settings), validation=validation, **options)
        return history, embedder.encode_text(CAPTIONS)

    expected_history, expected = run(tmp_path / "uninterrupted")
    run(tmp_path / "interrupted", deadline=stop_after(3))  # the last checkpoint is that of step 2
    (tmp_path / "interrupted" / "checkpoint-3").mkdir()  # what a process killed while saving leaves
    history, embeddings = run(tmp_path / "interrupted", resume=True)
    assert torch.allclose(embeddings, expected, atol=1e-5)
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    for name in ("loss", "contrastive", "temperature", "eval_score"):
        assert [row[name] for row in history] == pytest.approx([row[name] for row in expected_history], rel=1e-4)
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds) and seconds[1] > 0


@pytest.mark.parametrize("steps, again", [(4, 4), (3, 3), (4, 2)])
def test_resuming_a_finished_run_changes_nothing(tmp_path, capsys, steps, again):
    def run(steps, **options):
        embedder = tiny_embedder()
        history = fit(embedder, small(output_dir=str(tmp_path), steps=steps, save_every=2, **options))
        return history, adapter_state(embedder.lvlm), sorted(path.name for path in tmp_path.iterdir())

    history, state, checkpoints = run(steps)
    for _ in range(2):
        resumed, loaded, left = run(again, resume=True, resume_anyway=again != steps)
        assert resumed == history and left == checkpoints
        assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert f"has all {again} steps of this run" in capsys.readouterr().out
    resumed, loaded, _ = run(
        steps + 2, resume=True, resume_anyway=True
    )  # the first step after the old schedule's end has rate 0
    assert [row["step"] for row in resumed] == list(range(1, steps + 3))
    assert not all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("options", [{"lora": {"r": 4}}, {"soft_prompt": False}], ids=str)
def test_resuming_with_another_adapter_names_the_first_tensor_that_differs(tmp_path, options):
    settings = {"output_dir": str(tmp_path), "save_every": 1}
    fit(tiny_embedder(), small(steps=1, **settings))
    with pytest.raises(BadAdapter, match="checkpoint-1 does not fit tiny: .* tensors are missing, unexpected or of"):
        fit(vk.attach(tiny_lvlm(), quiet=True, **options), small(steps=2, resume=True, resume_anyway=True, **settings))


def test_a_resumed_run_continues_in_the_order_grouped_by_length(tmp_path):
    pairs = [pair for pair in tiny_pairs(13) if pair.short]

    def run(folder, **options):
        settings = {"steps": 5, "batch_size": 4, "group_by_length": True, "save_every": 1}
        settings |= {"resume": options.pop("resume", False)}
        return fit(tiny_embedder(), small(output_dir=str(folder), **settings), pairs, **options)

    expected = run(tmp_path / "uninterrupted")
    run(tmp_path / "interrupted", deadline=stop_after(4))  # in the second epoch
    history = run(tmp_path / "interrupted", resume=True)
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    order = list(ByLength(pairs, 4, seed=0))
    lengths = [sum(len(pairs[index].long or "") for index in order[start : start + 4]) for start in (0, 4)]
    assert lengths[0] > lengths[1]  # the order is not that of the data


def test_saving_a_checkpoint_does_not_contact_the_hub(tmp_path, monkeypatch):
    def contact(model_id, file):
        raise AssertionError(f"asked the hub for {model_id}'s {file}")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", contact)
    fit(tiny_embedder(), small(steps=1, output_dir=str(tmp_path), save_every=1))
    assert (tmp_path / "checkpoint-1" / "adapter_model.safetensors").exists()


def test_the_temperature_can_be_fixed():
    embedder = vk.attach(tiny_lvlm(), temperature=0.05)
    history = fit(embedder, small(learn_temperature=False))
    assert all(row["temperature"] == pytest.approx(0.05) for row in history)
    history = fit(embedder, small(learning_rate=0.05))
    assert history[-1]["temperature"] != pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("rate, expected", [(None, 50 * 1e-3), (0.01, 0.01)])
def test_soft_prompts_have_a_separate_learning_rate(rate, expected):
    embedder = tiny_embedder()
    before = {name: weight.detach().clone() for name, weight in embedder.lvlm.adapter.named_parameters()}
    fit(embedder, small(steps=1, warmup=0, learning_rate=1e-3, soft_prompt_learning_rate=rate))
    largest = {"soft prompt": 0.0, "other": 0.0}
    for name, weight in embedder.lvlm.adapter.named_parameters():
        kind = "soft prompt" if ".soft_prompt." in name else "other"
        largest[kind] = max(largest[kind], float((weight.detach() - before[name]).abs().max()))
    # the largest change by AdamW's first step is the learning rate
    assert largest == pytest.approx({"soft prompt": expected, "other": 1e-3}, rel=0.01)


def test_a_learning_rate_for_missing_soft_prompts_raises():
    with pytest.raises(ValueError, match=r"soft_prompt_learning_rate=0.05 has nothing to train: attach"):
        fit(vk.attach(tiny_lvlm(), soft_prompt=False), small(soft_prompt_learning_rate=0.05))


def test_an_embedder_without_adapter_raises():
    with pytest.raises(ValueError, match="nothing to train: call attach"):
        fit(vk.Embedder(tiny_lvlm()), small())


def test_fewer_pairs_than_a_batch_raise():
    with pytest.raises(ValueError, match="12 pairs do not fill one batch of 64"):
        fit(tiny_embedder(), small(batch_size=64))


def test_a_caption_over_the_limit_raises_with_its_length():
    pairs = tiny_pairs(12)
    pairs.append(vk.Pair(pairs[0].image, pairs[0].short, "a dog " * 300))
    with pytest.raises(vk.BadInput, match="pair 12: a long caption has 600 tokens, the limit is 500"):
        fit(tiny_embedder(), small(), pairs)


def test_a_new_run_in_the_folder_of_an_earlier_one_raises(tmp_path):
    embedder, settings = tiny_embedder(), small(steps=1, output_dir=str(tmp_path), save_every=1)
    fit(embedder, settings)
    with pytest.raises(ValueError, match="earlier run"):
        fit(embedder, settings)
