"""The dashboard: the run is `fit`'s own, pausing holds it, stopping keeps what was learned."""

import re
import time

import pytest
import torch

import vladva_kit as vk
from vladva_kit.widgets import CachedEmbedder, ModelBusy, TrainingDashboard, training_view
from vladva_kit.widgets.training_dashboard import clock, time_left, validation_recall


def quick(**changes):
    return vk.Settings(**{"steps": 3, "batch_size": 4, "warmup": 1, **changes})


def until(condition, seconds=60):
    """Waits for a condition; says so when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_headless_run_gives_what_fit_gives(lvlm, pairs):
    plain = vk.fit(vk.attach(vk.load_lvlm()), pairs, quick(), progress=False)
    dashboard = TrainingDashboard(vk.attach(lvlm), pairs, quick(), validation=pairs, validate_every=2)
    history = dashboard.wait()
    assert [row["loss"] for row in history] == [row["loss"] for row in plain]
    assert [row["step"] for row in history if "validation_recall" in row] == [2, 3]
    assert history[-1]["validation_recall"] == validation_recall(dashboard.embedder, pairs)
    assert dashboard.bar.value == 3 and dashboard.stop_button.disabled
    assert "finished" in dashboard.view.value and "step 3 of 3" in dashboard.view.value
    assert f"{history[-1]['loss']:.3f} nats" in dashboard.view.value
    assert re.search(r'<img class="plot" src="data:image/png;base64,[^"]+" alt="[^"]+"', dashboard.view.value)
    assert dashboard.view.value == training_view(history, 3)


def test_validation_recall_is_a_plain_count(lvlm, pairs):
    baseline = vk.Embedder(lvlm)
    texts = baseline.encode_text([pair.short for pair in pairs])
    images = baseline.encode_image([pair.image for pair in pairs])
    hits = sum(int(torch.argmax(images @ text)) == place for place, text in enumerate(texts))
    assert validation_recall(baseline, pairs) == pytest.approx(hits / len(pairs))


def test_pause_holds_the_run_lets_others_use_the_model_and_stop_keeps_what_was_learned(lvlm, pairs):
    embedder = vk.attach(lvlm)
    memory = CachedEmbedder(embedder)
    before = memory.encode_text(["a dog"])
    dashboard = TrainingDashboard(embedder, pairs, quick(steps=200))
    dashboard.start()
    until(lambda: len(dashboard.history) >= 1)
    with pytest.raises(ModelBusy, match="pause or stop"):
        memory.encode_text(["a cat"])
    dashboard.pause_button.value = True
    until(lambda: "paused" in dashboard.view.value)
    assert "time left" in dashboard.view.value
    held = len(dashboard.history)
    after = memory.encode_text(["a dog"])  # the weights have changed, so it is not the cached_embedder one
    assert not (before == after).all()
    time.sleep(0.3)
    assert len(dashboard.history) == held
    dashboard.stop_button.click()
    history = dashboard.wait()
    assert len(history) == held + 1 and dashboard.state == "stopped, and kept"  # the step that the pause held
    assert (memory.encode_text(["a dog"]) == after).all()
    assert not lvlm.model.training


def test_resuming_goes_on_to_the_last_step(lvlm, pairs):
    dashboard = TrainingDashboard(vk.attach(lvlm), pairs, quick(steps=3))
    dashboard.pause_button.value = True
    dashboard.start()
    dashboard.pause_button.value = False
    assert [row["step"] for row in dashboard.wait()] == [1, 2, 3]


def test_what_goes_wrong_is_shown_and_raised(lvlm, pairs):
    dashboard = TrainingDashboard(vk.Embedder(lvlm), pairs, quick())
    dashboard.start_button.click()
    with pytest.raises(ValueError, match="call attach"):
        dashboard.wait()
    assert 'role="alert"' in dashboard.view.value and "call attach" in dashboard.view.value
    assert CachedEmbedder(vk.Embedder(lvlm)).encode_text(["a dog"]).shape[0] == 1  # the model is free again


def test_the_time_left_is_that_of_the_pace_so_far():
    history = [{"step": 10, "seconds": 20.0, "loss": 1.0}]
    assert time_left(history, 40) == pytest.approx(60)
    assert (clock(60), clock(59.6), clock(5), clock(754)) == ("1 min 00 s", "1 min 00 s", "5 s", "12 min 34 s")
    assert "1 min 00 s" in training_view(history, 40, "training")
    assert "time left" not in training_view(history, 40)
    assert "40 steps to make" in training_view([], 40, "not started")
