"""The history read from the Trainer's log, and the progress bar."""

from transformers import TrainerControl, TrainerState, TrainingArguments

from vladva_kit.training.progress import Progress, history_of, seconds_of

METRICS = {"contrastive": 1.0, "next_token": 2.0, "accuracy": 0.25, "temperature": 0.07}


def logged(step, **more):
    return {"loss": 3.0, "grad_norm": 9.0, "learning_rate": 1e-3, **METRICS, "seconds": step / 2, "step": step, **more}


def test_the_history_has_a_row_per_logged_step():
    state = TrainerState(log_history=[logged(1), logged(2, epoch=0.5), {"train_runtime": 3.0, "step": 2}])
    assert history_of(state) == [
        {"step": step, "seconds": step / 2, "loss": 3.0, **METRICS} for step in (1, 2)
    ]  # not grad_norm and learning_rate
    assert list(history_of(state)[0]) == ["step", "seconds", "loss", *METRICS]


def test_validation_metrics_are_in_the_row_of_their_step():
    validation = {"eval_recall": 50.0, "epoch": 1.0, "step": 2}
    rows = history_of(TrainerState(log_history=[logged(1), logged(2), validation, logged(3)]))
    assert [row.get("eval_recall") for row in rows] == [None, 50.0, None]
    assert "epoch" not in rows[1] and rows[1]["loss"] == 3.0


def test_validation_of_a_step_that_was_not_logged_has_a_row_of_its_own():
    validations = [{"eval_recall": 10.0 * step, "step": step} for step in (1, 3, 4)]
    log = [validations[0], logged(2), validations[1], logged(4), validations[2], {"train_runtime": 3.0, "step": 5}]
    rows = history_of(TrainerState(log_history=log))
    assert [(row["step"], row.get("eval_recall"), "loss" in row) for row in rows] == [
        (1, 10.0, False), (2, None, True), (3, 30.0, False), (4, 40.0, True)
    ]  # fmt: skip
    assert seconds_of(rows) == 2.0 and seconds_of(rows[:1]) == seconds_of([]) == 0


def test_a_step_that_a_resumed_run_repeats_is_in_the_history_once():
    rows = history_of(
        TrainerState(log_history=[logged(1), logged(2), logged(3), logged(2, loss=2.5), logged(3, loss=2.0)])
    )
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 3.0), (2, 2.5), (3, 2.0)]


def run_bar(steps=4, state=None, **options):
    """Let a progress bar see two more steps of 8 pairs; return the bar's text and the control."""
    state, control = state or TrainerState(), TrainerControl()
    progress, arguments = Progress(steps, 8, **options), TrainingArguments(use_cpu=True)
    progress.on_train_begin(arguments, state, control)
    for _ in range(2):
        state.global_step += 1
        progress.on_step_end(arguments, state, control)
        progress.on_log(arguments, state, control, logs=logged(state.global_step))
    progress.on_log(arguments, state, control, logs={"eval_recall": 50.0})  # is ignored
    text = str(progress.bar)
    progress.close()
    return text, control


def test_the_bar_shows_steps_loss_accuracy_and_speed():
    text, control = run_bar()
    assert "2/4" in text and "loss 3.00, in-batch accuracy 25%, 16 pairs/s" in text  # 16 pairs in a second
    assert not control.should_training_stop


def test_the_speed_of_a_resumed_run_counts_its_own_steps_and_seconds():
    state = TrainerState(global_step=2, log_history=[logged(1), logged(2, seconds=1.0)])
    text, _ = run_bar(state=state)
    assert "4/4" in text and "16 pairs/s" in text


def test_an_invisible_bar_prints_nothing(capsys):
    run_bar(visible=False)
    assert capsys.readouterr().err == ""


def test_training_stops_at_the_deadline():
    calls = iter([False, True])
    assert run_bar(deadline=lambda: next(calls))[1].should_training_stop
