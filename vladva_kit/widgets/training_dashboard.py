"""A fine-tune that can be watched: live curves, time left, pause, stop and keep."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vladva_kit.data.pairs import Pair, load_pairs
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.evaluation.metrics import recall_at_k
from vladva_kit.plots.figures import training_curve
from vladva_kit.plots.style import figure_uri
from vladva_kit.training.progress import KEPT
from vladva_kit.training.trainer import Settings, fit
from vladva_kit.widgets.base import WidgetBase, controls
from vladva_kit.widgets.cached_embedder import training_rests, training_turn
from vladva_kit.widgets.page import View, page

DRAWN_EVERY = 1.0  # seconds between two pictures of the curves: drawing must not slow the training down


def training_view(history: Sequence[Mapping[str, Any]], steps: int, state: str = "finished") -> View:
    """Curves and figures of a run so far: `training_view(history, settings.steps)`, `history` as `fit` returns it.

    Each row has `step`, and any of what `plots.training_curve` draws. The time left is that of the run's own pace.
    """
    if not history:
        return page("training_view", state=state, step=0, steps=steps, figures={}, curve=None)
    last = history[-1]
    figures = {}
    if "loss" in last:
        figures["loss"] = f"{last['loss']:.3f} nats"
    if "accuracy" in last:
        figures["in-batch accuracy"] = f"{last['accuracy']:.0%}"
    recalls = [row["validation_recall"] for row in history if "validation_recall" in row]
    if recalls:
        figures["validation R@1"] = f"{recalls[-1]:.0%}"
    if "seconds" in last:
        figures["time so far"] = clock(last["seconds"])
        if state in ("training", "paused"):
            figures["time left"] = clock(time_left(history, steps))
    curve = figure_uri(training_curve(history), dpi=100)
    return page("training_view", state=state, step=last["step"], steps=steps, figures=figures, curve=curve)


def time_left(history: Sequence[Mapping[str, Any]], steps: int) -> float:
    """Seconds that the steps to come will take at the pace of those made: `time_left(history, 150)`."""
    last = history[-1]
    return (steps - last["step"]) * last["seconds"] / last["step"]


def clock(seconds: float) -> str:
    """Seconds as a person reads them: `clock(75) == "1 min 15 s"`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class TrainingDashboard(WidgetBase):
    """Trains in a thread and shows how it goes; what was learned until a stop is kept.

        dashboard = TrainingDashboard(embedder, vk.sample("emoji_pairs"), vk.Settings(steps=150))
        dashboard.start()           # or its button
        dashboard.wait()            # where nobody looks: joins, raises what went wrong, returns the history

    Callbacks of buttons run between cells, hence the thread. `validation` is a list of pairs, or whatever
    `load_pairs` takes (its split "validation"): every `validate_every` steps a caption looks for its picture among
    them. Recall is that of the first short captions. Keywords go to `fit`.
    """

    def __init__(
        self,
        embedder: Embedder,
        data: Any,
        settings: Settings = Settings(),  # noqa: B008  frozen
        validation: Any = None,
        validate_every: int = 25,
        **fit_keywords: Any,
    ) -> None:
        super().__init__()
        self.embedder, self.data, self.settings, self.fit_keywords = embedder, data, settings, fit_keywords
        self.validate_every = validate_every
        self.validation = [] if validation is None else load_pairs(validation, split="validation")
        self.history: list[dict[str, float]] = []
        self.error: Exception | None = None
        self.state = "not started"
        self._thread: threading.Thread | None = None
        self._go, self._stop = threading.Event(), threading.Event()
        self._drawn = 0.0
        widgets = controls()
        self.start_button = widgets.Button(description="start", button_style="primary")
        self.pause_button = widgets.ToggleButton(description="pause", disabled=True)
        self.stop_button = widgets.Button(description="stop and keep", disabled=True)
        self.bar = widgets.IntProgress(min=0, max=settings.steps)
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.pause_button.observe(self._pause, "value")
        buttons = [self.start_button, self.pause_button, self.stop_button, self.bar]
        self.box = widgets.VBox([widgets.HBox(buttons), self.view])
        self.refresh()

    def draw(self) -> View:
        """Curves and figures of the run so far."""
        return training_view(self.history, self.settings.steps, self.state)

    def start(self) -> None:
        """Begins, once; a dashboard is for one run."""
        if self._thread is not None:
            return
        self._go.set()
        self.start_button.disabled, self.pause_button.disabled, self.stop_button.disabled = True, False, False
        self._enter("training")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the run after the step at hand, paused or not; what was learned is kept in the embedder."""
        self._stop.set()
        self._go.set()

    def wait(self) -> list[dict[str, float]]:
        """Starts if need be, returns the history when the run has ended, and raises what it raised."""
        self.start()
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self.history

    def _pause(self, change: Mapping[str, Any]) -> None:
        if change["new"]:
            self._go.clear()
        else:
            self._go.set()

    def _enter(self, state: str) -> None:
        self.state = state
        self.refresh()

    def _run(self) -> None:
        try:
            with training_turn():
                callbacks = [_Watcher(self), *self.fit_keywords.get("callbacks", ())]
                arguments = {"progress": False, **self.fit_keywords, "callbacks": callbacks}
                fit(self.embedder, self.data, self.settings, **arguments)
            self._enter("stopped, and kept" if self._stop.is_set() else "finished")
        except Exception as error:  # shown here, and raised by wait(): a thread has nobody to raise it to
            self.error = error
            self.state = "failed"
            self.view.value = page("message", text=f"{type(error).__name__}: {error}")
        finally:
            self.pause_button.disabled = self.stop_button.disabled = True

    def _rest(self) -> None:
        """Waits while paused; others may use the model meanwhile."""
        if self._go.is_set():
            return
        with training_rests():
            self._enter("paused")
            self._go.wait()
        self._enter("training")

    def _row(self, row: dict[str, float]) -> None:
        if self.validation and (row["step"] % self.validate_every == 0 or row["step"] == self.settings.steps):
            row["validation_recall"] = validation_recall(self.embedder, self.validation)
        self.history.append(row)
        self.bar.value = row["step"]
        if time.monotonic() - self._drawn > DRAWN_EVERY:
            self.refresh()
            self._drawn = time.monotonic()


def validation_recall(embedder: Embedder, pairs: Sequence[Pair]) -> float:
    """Recall@1, 0–1, of pictures by their first short caption; a caption of several pictures is right for each.

    validation_recall(embedder, load_pairs(sample("emoji_pairs"), "validation"))
    """
    pairs = [pair for pair in pairs if pair.short]
    captions = [pair.short for pair in pairs]
    scores = embedder.similarity(
        embedder.encode_text(captions), embedder.encode_image([pair.load_image() for pair in pairs])
    )
    right = np.array([[caption == other for other in captions] for caption in captions])
    return recall_at_k(scores, right, ks=(1,))[1] / 100


class _Watcher(TrainerCallback):
    """Tells the dashboard of each step, and holds or ends the run for it."""

    def __init__(self, dashboard: TrainingDashboard) -> None:
        self.dashboard = dashboard

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self.dashboard._rest()
        if self.dashboard._stop.is_set():
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and "contrastive" in logs:
            row = {key: logs[key] for key in KEPT if key in logs}
            self.dashboard._row({**row, "step": state.global_step})
