"""The training step against plain lines, one pair at a time; which parameters get gradients; the Trainer around it."""

import pytest
import torch
from tiny import gradients, tiny_embedder, tiny_lvlm, tiny_pairs
from torch.nn import functional as F
from transformers import TrainerCallback, TrainingArguments

import vladva_kit as vk
from vladva_kit.embedder.embedder import summary_states
from vladva_kit.embedder.prompts import encode_caption, image_inputs, text_inputs
from vladva_kit.models.device import NonFiniteError
from vladva_kit.training import grad_cache
from vladva_kit.training.collator import Collator
from vladva_kit.training.encode import encode_batch
from vladva_kit.training.trainer import VladvaTrainer, step_losses

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


def test_the_step_equals_plain_lines_without_batches_and_padding(embedder):
    lvlm, pairs = embedder.lvlm, [pair for pair in tiny_pairs(12) if pair.short and pair.long]
    pairs = [vk.Pair(pair.image, f"{pair.short} {n}", pair.long) for n, pair in enumerate(pairs)]  # all different
    tokenizer, model = lvlm.processor.tokenizer, lvlm.model
    with torch.no_grad():
        metrics = step_losses(embedder, Collator(embedder)(pairs)["batch"])
        next_token, n_tokens, images, texts = 0.0, 0, [], []
        for pair in pairs:
            caption = [*encode_caption(tokenizer, pair.long), tokenizer.eos_token_id]
            inputs = image_inputs(lvlm.processor, [pair.image], embedder.image_prompt, [caption])
            states = embedder.hidden_states(inputs)
            images.append(F.normalize(summary_states(states, inputs)[0], dim=-1))
            logits = model.lm_head(states[0, int(inputs.summary_positions[0]) : -1])
            next_token += F.cross_entropy(logits, torch.tensor(caption), reduction="sum")
            n_tokens += len(caption)
            inputs = text_inputs(tokenizer, [pair.short], embedder.text_prompt)
            texts.append(F.normalize(summary_states(embedder.hidden_states(inputs), inputs)[0], dim=-1))
        logits, targets = torch.stack(images) @ torch.stack(texts).T / 0.07, torch.arange(len(pairs))
        contrastive = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
        next_token /= n_tokens

    assert float(metrics["contrastive"]) == pytest.approx(float(contrastive), rel=1e-4)
    assert float(metrics["next_token"]) == pytest.approx(float(next_token), rel=1e-4)
    assert float(metrics["loss"]) == pytest.approx(float(contrastive + next_token), rel=1e-4)


def test_pairs_with_the_same_caption_or_image_are_not_negatives_of_each_other(embedder):
    captions = ["a dog on the car", "two cats", "A dog  on the car", "a small cat", "two cats", "a red car"]
    negatives = ["a dog on the car", "a blue car"]  # the first one is the caption of two images
    images = [pair.image for pair in tiny_pairs(len(captions))]
    images[5] = images[3].copy()
    pairs = [vk.Pair(image, caption) for image, caption in zip(images, captions, strict=True)]
    pairs[3] = vk.Pair(images[3], captions[3], negatives=negatives)
    image_vectors, text_vectors = embedder.encode_image(images), embedder.encode_text(captions)
    negative_vectors = embedder.encode_text(negatives)

    def by_loop(same_caption, same_images):
        total = 0.0
        for i, own in enumerate(captions):
            columns = [
                j for j in range(len(captions))
                if j == i or not (same_caption(captions[j], own) or {i, j} in same_images)
            ]  # fmt: skip
            hard = [k for k, negative in enumerate(negatives) if not same_caption(negative, own)]
            by_image = [*(image_vectors[i] @ text_vectors[j] for j in columns)]
            by_image += [image_vectors[i] @ negative_vectors[k] for k in hard]
            by_text = [text_vectors[i] @ image_vectors[j] for j in columns]
            by_text += [text_vectors[i] @ negative_vectors[k] for k in hard]
            for cosines in (by_image, by_text):
                total += float(F.cross_entropy(torch.stack(cosines) / 0.07, torch.tensor(columns.index(i))))
        return total / (2 * len(captions))

    with torch.no_grad():
        loss = float(step_losses(embedder, Collator(embedder)(pairs)["batch"])["contrastive"])
    same_caption = lambda one, other: one.lower().split() == other.lower().split()  # noqa: E731
    assert loss == pytest.approx(by_loop(same_caption, [{3, 5}]), rel=1e-4)
    assert loss < by_loop(lambda one, other: False, [{3, 5}]) - 0.01
    assert loss < by_loop(same_caption, []) - 0.01


def test_gradients_reach_soft_prompts_lora_and_temperature_only(embedder):
    step_losses(embedder, Collator(embedder)(tiny_pairs(8))["batch"])["loss"].backward()
    frozen = [weight for weight in embedder.lvlm.model.parameters() if not weight.requires_grad]
    assert frozen and all(weight.grad is None for weight in frozen)
    by_name = gradients(embedder)
    assert all(gradient.abs().sum() > 0 for gradient in by_name.values())
    kinds = {kind for name in by_name for kind in ("lora_", "soft_prompt", "temperature") if kind in name}
    assert kinds == {"lora_", "soft_prompt", "temperature"}
    assert all(any(kind in name for kind in kinds) for name in by_name)


def test_a_single_pair_without_long_caption_gives_a_loss_of_0(embedder):
    loss = step_losses(embedder, Collator(embedder)([tiny_pairs(3)[2]])["batch"])["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert not any(gradient.any() for gradient in gradients(embedder).values())


def test_the_trainer_can_be_built_from_plain_training_arguments(tmp_path):
    pairs = [pair for pair in tiny_pairs(15) if pair.short and pair.long]

    def losses(arguments, **options):
        embedder = tiny_embedder()
        trainer = vk.VladvaTrainer(embedder, args=arguments, train_dataset=pairs, **options)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "contrastive" in entry]

    plain = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "warmup_steps": 1}
    plain |= {"max_steps": 3, "per_device_train_batch_size": 6, "learning_rate": 1e-3, "lr_scheduler_type": "cosine"}
    by_hand = losses(TrainingArguments(output_dir=str(tmp_path), seed=0, **plain), next_token_weight=0.3)
    expected = vk.fit(tiny_embedder(), pairs, vk.Settings(steps=3, batch_size=6, warmup=1), progress=False)
    assert by_hand == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    arguments = TrainingArguments(output_dir=str(tmp_path), gradient_accumulation_steps=2, **plain)
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2 does not enlarge .*micro_batch_size"):
        losses(arguments)


class Log(TrainerCallback):
    """Collect what the Trainer reports to its trackers."""

    def __init__(self):
        self.entries = []

    def on_log(self, args, state, control, logs=None, **_):
        self.entries.append({**logs, "step": state.global_step})


def fit_tiny(callbacks=(), **changes):
    settings = vk.Settings(**{"steps": 3, "batch_size": 6, "warmup": 1, **changes})
    return vk.fit(tiny_embedder(), tiny_pairs(12), settings, callbacks=callbacks, progress=False)


@pytest.mark.parametrize("rows", [None, 4])
def test_metrics_travel_through_the_trainers_log(rows):
    log = Log()
    history = fit_tiny([log], micro_batch_size=rows)
    entries = [entry for entry in log.entries if "contrastive" in entry]
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    for entry, row in zip(entries, history, strict=True):
        assert {name: entry[name] for name in row} == row
        assert row.keys() == {"step", "seconds", "loss", "contrastive", "next_token", "accuracy", "temperature"}
        weight = vk.Settings().next_token_weight
        assert entry["loss"] == pytest.approx(entry["contrastive"] + weight * entry["next_token"])
        assert entry.keys() >= {"grad_norm", "learning_rate"}


def test_trainer_fields_reach_the_trainer():
    log = Log()
    fit_tiny([log], learning_rate=2e-4, warmup=0, trainer={"lr_scheduler_type": "constant"})
    assert [entry["learning_rate"] for entry in log.entries if "learning_rate" in entry] == [2e-4] * 3


def test_plain_and_cached_steps_call_the_same_losses(monkeypatch):
    def losses_with_penalty(embedder, batch, next_token_weight=1.0, encoded=None, **weights):
        encoded = encoded or encode_batch(embedder, batch, next_token_weight > 0)
        metrics = step_losses(embedder, batch, next_token_weight, encoded, **weights)
        return {**metrics, "loss": metrics["loss"] + 10 * encoded.images.mean(0).square().sum()}

    without = fit_tiny()
    monkeypatch.setattr("vladva_kit.training.trainer.step_losses", losses_with_penalty)
    plain, cached = fit_tiny(), fit_tiny(micro_batch_size=4)
    assert [row["loss"] for row in cached] == pytest.approx([row["loss"] for row in plain], rel=1e-4)
    assert all(row["loss"] > other["loss"] + 0.1 for row, other in zip(plain, without, strict=True))
    assert plain[-1]["contrastive"] != pytest.approx(without[-1]["contrastive"], rel=1e-4)  # other updates


def test_the_settings_decide_whether_the_cached_step_keeps_image_features(monkeypatch):
    kept, step = [], grad_cache.cached_step
    record = lambda *arguments, **options: kept.append(options["keep_features"]) or step(*arguments, **options)  # noqa: E731
    monkeypatch.setattr("vladva_kit.training.trainer.cached_step", record)
    losses = [[row["loss"] for row in fit_tiny(micro_batch_size=4, keep_features=keep)] for keep in (True, False)]
    assert set(kept[: len(losses[0])]) == {True} and set(kept[len(losses[0]) :]) == {False}
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


class ScaledOnTheCpu(VladvaTrainer):
    """The trainer with the loss scaler that accelerate creates for float16 on a GPU, and with chosen overflows."""

    scale, overflows, scales = 2.0**16, (), []

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=self.scale)
        self.scales.clear()

    def training_step(self, model, inputs, *arguments, **keywords):
        loss = super().training_step(model, inputs, *arguments, **keywords)
        if self.state.global_step in self.overflows:
            self.embedder.lvlm.model.temperature.modules_to_save["default"].log_scale.grad.fill_(float("inf"))
        self.scales.append(self.accelerator.scaler.get_scale())
        return loss


def fit_scaled(monkeypatch, **changes):
    monkeypatch.setattr("vladva_kit.training.fit.VladvaTrainer", ScaledOnTheCpu)
    for name in ("scale", "overflows"):
        if name in changes:
            monkeypatch.setattr(ScaledOnTheCpu, name, changes.pop(name))
    embedder = vk.attach(tiny_lvlm(dtype=torch.float16), quiet=True)
    history = vk.fit(embedder, tiny_pairs(12), vk.Settings(batch_size=6, warmup=0, **changes), progress=False)
    return embedder, history


@pytest.mark.parametrize("rows", [None, 4])
def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_halves_the_scale(monkeypatch, rows):
    embedder, history = fit_scaled(monkeypatch, steps=4, overflows=(0, 1), micro_batch_size=rows)
    assert ScaledOnTheCpu.scales == [2.0**16, 2.0**15, 2.0**14, 2.0**14]
    temperatures = [row["temperature"] for row in history]
    assert temperatures[0] == temperatures[1] == temperatures[2] != temperatures[3]  # logged before each update
    assert all(weight.isfinite().all() for weight in embedder.lvlm.model.parameters() if weight.requires_grad)


def test_an_overflow_at_every_scale_stops_the_run_with_finite_weights(monkeypatch):
    with pytest.raises(NonFiniteError, match="gradients are not finite in float16"):
        fit_scaled(monkeypatch, steps=20, overflows=range(20), scale=8.0)
    assert ScaledOnTheCpu.scales == [8.0, 4.0, 2.0, 1.0, 0.5]


def test_without_a_scaler_the_first_gradient_that_is_not_finite_stops_the_run(monkeypatch):
    monkeypatch.setattr("vladva_kit.training.trainer.Trainer._get_grad_norm", lambda *_, **__: float("nan"))
    with pytest.raises(NonFiniteError, match="gradients are not finite in float32"):
        fit_tiny()
