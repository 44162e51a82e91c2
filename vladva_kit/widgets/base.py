"""The thin shell around a view: core ipywidgets, reachable by keyboard, of either major version from 7.7."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from vladva_kit.models.images import BadInput, open_image
from vladva_kit.widgets.cached_embedder import ModelBusy
from vladva_kit.widgets.page import View, page

EVERY = "every category"  # the list's first entry, of widgets that leaf through cases
MOMENT = 2.0  # seconds that a widget waits for its work before it shows itself
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"  # how a notebook names a live widget


def controls() -> ModuleType:
    """ipywidgets. Raises ImportError, with the way out, where it is not installed."""
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError(
            "widgets need ipywidgets: pip install 'vladva-kit[notebooks]'; "
            "the functions that end in _view show the same without it"
        ) from error
    return ipywidgets


class WidgetBase:
    """What every widget has: `box`, which a notebook shows, and `view`, whose `value` is the HTML of the moment."""

    work: Work | None = None  # of those that are slow

    def __init__(self) -> None:
        self.view: Any = controls().HTML()
        self._drawing = threading.RLock()  # a thread's view must not be overwritten by an older one
        self._laying = False
        self.box: Any = None

    def draw(self) -> View:
        """The view as the controls stand."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def refresh(self, *_: object) -> None:
        """Draws anew; what cannot be drawn is said in place of the view. Inside `laying` nothing is drawn."""
        if self._laying:
            return
        with self._drawing:
            try:
                self.view.value = self.draw()
            except (ValueError, OSError, ModelBusy) as error:
                self.view.value = page("message", text=str(error))

    @contextmanager
    def laying(self) -> Iterator[None]:
        """Several controls change and the view is drawn once, at the end, not between two halves of the change."""
        outer, self._laying = self._laying, True
        try:
            yield
        finally:
            self._laying = outer
        self.refresh()

    def follow(self, *watched: Any) -> None:
        """Draws anew whenever the value of one of these controls changes."""
        for control in watched:
            control.observe(self.refresh, "value")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """The widget, and beside it the view of the moment as HTML: whoever shows a notebook takes what it can show.

        A front end takes the widget; GitHub, an HTML export and the committed notebooks, which keep none, the view.
        """
        if self.work is not None:  # what is nearly done is shown done, and kept so in the file
            self.work.settle(MOMENT)
        live = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        bundle: dict[str, Any] = {WIDGET_VIEW: live, "text/plain": type(self).__name__}
        # which of the two Colab would take is not documented: there it is not asked
        return bundle if "google.colab" in sys.modules else {**bundle, "text/html": str(self.view.value)}


class CaseBrowser(WidgetBase):
    """A widget that leafs through cases: `places` lists those to show, `at` is the place of the one at hand.

    A subclass says in `relisted` which cases there are to show, and puts the one at hand into its controls in `lay`.
    """

    places: Sequence[Any] = ()
    at = 0

    def _build_leaves(self, categories: Sequence[str], judges: Sequence[str]) -> None:
        """The controls by which cases are found: buttons to leaf, lists and boxes to choose by."""
        widgets = controls()
        self.previous, self.next = (widgets.Button(description=text) for text in ("◀ previous", "next ▶"))
        self.category = widgets.Dropdown(options=[EVERY, *categories], description="category")
        self.judge = widgets.Dropdown(options=judges, description="judge by")
        self.only_failures = widgets.Checkbox(description="only failures", indent=False)
        self.by_margin = widgets.Checkbox(description="worst first", indent=False)
        self.previous.on_click(lambda _: self._step(-1))
        self.next.on_click(lambda _: self._step(1))
        for control in (self.category, self.judge, self.only_failures, self.by_margin):
            control.observe(self._relist, "value")

    def relisted(self) -> Sequence[Any]:
        """The cases to leaf through, as the controls stand."""
        raise NotImplementedError(f"{type(self).__name__} lists nothing")

    def lay(self) -> None:
        """Puts the case at hand into the controls; called only where there is one."""
        raise NotImplementedError(f"{type(self).__name__} lays nothing")

    def _relist(self, *_: object) -> None:
        self.places = self.relisted()
        self._go_to(0)

    def _step(self, by: int) -> None:
        if self.places:
            self._go_to((self.at + by) % len(self.places))

    def _go_to(self, at: int) -> None:
        with self.laying():
            self.at = at
            if self.places:
                self.lay()


class Work:
    """Slow work in a thread, with a bar and a button that cancels it after the piece at hand.

        work = Work()
        work.start(pieces, total=40, done=refresh)      # pieces: an iterator that does one piece of work a turn
        work.wait()                                     # where nobody looks: joins, and raises what went wrong

    `box` holds bar, button and a line of text. The work is over once `done` has run.
    """

    def __init__(self) -> None:
        widgets = controls()
        self.bar = widgets.IntProgress(min=0)
        self.cancel = widgets.Button(description="cancel", disabled=True)
        self.said = widgets.HTML()
        # nothing to see before there is work
        self.box = widgets.HBox([self.bar, self.cancel, self.said], layout=widgets.Layout(display="none"))
        self.cancel.on_click(lambda _: self._cancelled.set())
        self.error: Exception | None = None
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, pieces: Iterable[object], total: int, done: Callable[[], None], what: str = "") -> None:
        """Begins; work that is still under way is cancelled first."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join()
        self._cancelled.clear()
        self.error, self.bar.value, self.bar.max, self.cancel.disabled = None, 0, total, False
        self.box.layout.display = ""
        self._say(what)
        self._thread = threading.Thread(target=self._run, args=(pieces, total, done), daemon=True)
        self._thread.start()

    def settle(self, seconds: float) -> None:
        """Gives work that is under way so long to end; raises nothing."""
        if self._thread is not None:
            self._thread.join(seconds)

    def wait(self) -> None:
        """Returns when nothing is under way. Raises what the work raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self.error is not None:
                raise self.error

    def _say(self, text: str) -> None:
        self.said.value = page("message_soft", text=text)

    def _run(self, pieces: Iterable[object], total: int, done: Callable[[], None]) -> None:
        try:
            for number, _ in enumerate(pieces, start=1):
                self.bar.value = number
                if self._cancelled.is_set():
                    self._say(f"cancelled after {number} of {total}; what is done is kept")
                    return
            done()
            self._say("done")
        except Exception as error:  # shown here, and raised by wait(): a thread has nobody to raise it to
            self.error = error
            self.said.value = page("message", text=f"{type(error).__name__}: {error}")
        finally:
            self.cancel.disabled = True


def uploaded(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
    """The last picture of a FileUpload's value, RGB; None where there is none: `uploaded(upload.value)`.

    ipywidgets 7 gives {name: {"content": bytes, …}}, 8 a tuple of {"name": …, "content": memoryview, …}.
    Raises BadInput for a file that is no picture.
    """
    files = [{"name": name, **file} for name, file in value.items()] if isinstance(value, Mapping) else list(value)
    if not files:
        return None
    try:
        return open_image(bytes(files[-1]["content"]))
    except OSError as error:
        raise BadInput(f"{files[-1]['name']} is no picture that can be read: give a PNG, JPEG or WebP file") from error


def clear_upload(upload: Any) -> None:
    """Takes the files out of a FileUpload: `clear_upload(upload)`; its value is read-only in ipywidgets 7."""
    if upload.has_trait("_counter"):  # ipywidgets 7 makes the value anew of these whenever the counter changes
        with upload.hold_sync():
            upload.metadata, upload.data, upload._counter = [], [], 0
    upload.set_trait("value", type(upload.value)())  # () in ipywidgets 8; {} in 7
