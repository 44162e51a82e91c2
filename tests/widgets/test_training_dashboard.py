"""The dashboard runs `fit` unchanged, and can pause and stop it."""

import re
import time

import pytest
from tiny import tiny_embedder, tiny_lvlm, tiny_pairs

import vladva_kit as vk
from vladva_kit.training.validation import recall_at_1
from vladva_kit.widgets import CachedEmbedder, ModelBusy, TrainingDashboard, training_view

PAIRS = tiny_pairs(12)


def quick(**changes):
    return vk.Settings(**{"steps": 3, "batch_size": 4, "warmup": 1, **changes})


def until(condition, seconds=60):
    """Wait for a condition; fail if it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def test_the_history_is_that_of_fit(one_thread):
    settings = quick(validate_every=2)
    history = vk.fit(tiny_embedder(), PAIRS, settings, validation=PAIRS, progress=False)
    dashboard = TrainingDashboard(tiny_embedder(), PAIRS, settings, validation=PAIRS)
    rows = dashboard.wait()
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in history]
    assert any("eval_text_to_image_r1" in row for row in rows) and "validation R@1" in dashboard.view.value
    assert dashboard.bar.value == 3 and dashboard.bar.layout.display == "none" and dashboard.stop_button.disabled
    assert "finished" in dashboard.view.value and "step 3 of 3" in dashboard.view.value
    assert f"{rows[-1]['loss']:.2f} nats" in dashboard.view.value
    assert re.search(r'<img class="plot" src="data:image/png;base64,[^"]+" alt="[^"]+"', dashboard.view.value)
    with dashboard.embedder.base():
        assert dashboard.base == recall_at_1(dashboard.embedder, PAIRS)
    assert dashboard.view.value == training_view(rows, 3, base=dashboard.base)


def test_a_validation_before_the_first_logged_step_is_shown():
    assert "step 1 of 9" in training_view([{"step": 1, "eval_text_to_image_r1": 50.0}], 9, "training")
    row = {"step": 2, "seconds": 4.0, "loss": 1.5, "accuracy": 0.25}
    view = training_view([row, {"step": 3, "eval_text_to_image_r1": 50.0}], 9)
    assert "step 3 of 9" in view and "1.50 nats" in view and "50%" in view


def test_the_base_is_validated_with_a_function_too_and_shown_beside_the_recall(one_thread):
    states = []

    def validate(embedder):
        states.append(embedder.adapted)
        return {"score": 5.0}

    dashboard = TrainingDashboard(tiny_embedder(), PAIRS, quick(validate_every=3), validation=validate)
    assert [row["eval_score"] for row in dashboard.wait() if "eval_score" in row] == [5.0]
    assert states == [False, True] and dashboard.base == {"score": 5.0}
    row = {"step": 2, "seconds": 4.0, "loss": 1.5, "accuracy": 0.25, "eval_text_to_image_r1": 90.0}
    assert "<td>72 → 90%</td>" in training_view([row], 9, base={"text_to_image_r1": 72.0})


def test_a_paused_run_lets_others_use_the_model_and_a_stopped_one_keeps_its_weights(one_thread):
    embedder = tiny_embedder()
    model = CachedEmbedder(embedder)
    before = model.encode_text(["a dog"])
    dashboard = TrainingDashboard(embedder, PAIRS, quick(steps=2000))
    dashboard.start()
    until(lambda: len(dashboard.history) >= 1)
    with pytest.raises(ModelBusy, match="pause or stop"):
        model.encode_text(["a cat"])
    dashboard.pause_button.value = True
    assert dashboard.pause_button.description == "resume" and dashboard.state in ("pausing…", "paused")
    until(lambda: "<strong>paused" in dashboard.view.value)
    assert "time left" in dashboard.view.value
    steps = len(dashboard.history)
    after = model.encode_text(["a dog"])  # recomputed, since the weights have changed
    assert not (before == after).all()
    time.sleep(0.3)
    assert len(dashboard.history) == steps
    dashboard.stop_button.click()
    history = dashboard.wait()
    assert len(history) == steps + 1 and dashboard.state == "stopped"  # the step that was paused
    assert (model.encode_text(["a dog"]) == after).all()
    assert not embedder.lvlm.model.training


def test_a_resumed_run_reaches_the_last_step(one_thread):
    dashboard = TrainingDashboard(tiny_embedder(), PAIRS, quick(steps=30))
    dashboard.start()
    dashboard.pause_button.value = True
    until(lambda: dashboard.state == "paused")
    dashboard.pause_button.value = False
    assert dashboard.pause_button.description == "pause"
    assert [row["step"] for row in dashboard.wait()] == list(range(1, 31))


def test_an_error_is_shown_and_raised_and_frees_the_model(one_thread):
    base = vk.Embedder(tiny_lvlm())
    dashboard = TrainingDashboard(base, PAIRS, quick())
    dashboard.start_button.click()
    with pytest.raises(ValueError, match="call attach"):
        dashboard.wait()
    assert 'role="alert"' in dashboard.message.value and "call attach" in dashboard.message.value
    assert "failed" in dashboard.view.value
    assert CachedEmbedder(base).encode_text(["a dog"]).shape[0] == 1


def test_the_time_left_is_extrapolated_from_the_pace():
    history = [{"step": 10, "seconds": 20.0, "loss": 1.0, "accuracy": 0.5}]
    assert "<td>00:20</td><td>01:00</td>" in training_view(history, 40, "training")
    assert "time left" not in training_view(history, 40)


def test_curves_are_drawn_from_the_second_step_on():
    rows = [{"step": step, "seconds": 1.0, "loss": 1.0, "contrastive": 1.0, "accuracy": 0.5} for step in (1, 2)]
    assert "not started</strong>: 40 steps" in training_view([], 40, "not started")
    assert "<img" not in training_view(rows[:1], 40) and "<img" in training_view(rows, 40)
