"""Parts that all widgets share. All controls are core ipywidgets (7.7 or 8) and keyboard-accessible."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from PIL import Image

from vladva_kit.models.images import BadInput, ImageLike, open_image
from vladva_kit.widgets.cached_embedder import ModelBusy
from vladva_kit.widgets.page import View, page
from vladva_kit.widgets.static_view import WIDGET_VIEW, display_live_and_static, static_html

DISPLAY_WAIT = 2.0  # seconds that a widget waits for its background work before it is displayed
NO_IMAGE = -1  # value of the menu's entry without an image; ipywidgets reserves None for "nothing selected"
_EXPECTED = (ValueError, OSError, ImportError, ModelBusy)  # their messages say what to do


def controls() -> ModuleType:
    """Import ipywidgets. Raises ImportError that names the package to install."""
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError(
            "widgets need ipywidgets: pip install 'vladva-kit[notebooks]'; "
            "the functions whose names end in _view work without it"
        ) from error
    return ipywidgets


class WidgetBase:
    """Base of all widgets: a notebook displays `box`; `view.value` is the current HTML, `message.value` an error.

    A subclass defines `draw` and calls `_assemble` with its rows of controls.
    """

    work: Any = None  # the BackgroundTask of a widget with slow work

    def __init__(self) -> None:
        self.view, self.message = controls().HTML(), controls().HTML()
        self._draw_lock = threading.RLock()  # an older view must not overwrite the view of another thread
        self._on_hold = False
        self._static: Any = None  # handle of the static view, if it is a separate output
        self.box: Any = None

    def _assemble(self, *rows: Sequence[Any]) -> None:
        """Stack the rows of controls, the progress of background work, the error message and the view."""
        widgets = controls()
        wrapping = widgets.Layout(flex_flow="row wrap")
        parts = [widgets.HBox(row, layout=wrapping) for row in rows]
        parts += [] if self.work is None else [self.work.box]
        self.box = widgets.VBox([*parts, self.message, self.view])

    def draw(self) -> View:
        """Return the view for the current state of the controls."""
        raise NotImplementedError(f"{type(self).__name__} does not define draw()")

    def refresh(self, *_: object) -> None:
        """Redraw. If that fails, keep the last view and show the error below the controls."""
        if self._on_hold:
            return
        with self._draw_lock:
            self.message.value = ""
            with self.reporting():
                self.view.value = self.draw()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Show an error of the block below the controls instead of raising it, since callbacks have no caller."""
        try:
            yield
        except Exception as error:
            self.message.value = page("message", text=error_text(error))

    def handler(self, action: Callable[..., object]) -> Callable[..., None]:
        """Make a function that a control calls: errors of `action` are shown below the controls.

            button.on_click(self.handler(self.export))

        `action` is called without arguments, since front ends pass the control or the change.
        """

        def call(*_: object) -> None:
            with self.reporting():
                action()

        return call

    @contextmanager
    def batched(self) -> Iterator[None]:
        """Change several controls within the block and redraw once at its end."""
        before, self._on_hold = self._on_hold, True
        try:
            yield
        finally:
            self._on_hold = before
        self.refresh()

    def redraw_on(self, *watched: Any) -> None:
        """Redraw whenever the value of one of these controls changes."""
        for control in watched:
            control.observe(self.handler(self.refresh), "value")

    def _ipython_display_(self) -> None:
        """Display the live widget, and a static view that follows it and that a saved notebook shows."""
        is_first = self._static is None
        self._static = display_live_and_static(self._repr_mimebundle_())
        if is_first:
            self.view.observe(self._update_static, "value")

    def _update_static(self, *_: object) -> None:
        content = {"text/html": static_html(self.view.value), "text/plain": type(self).__name__}
        self._static.update(content, raw=True)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Return the live widget together with its current view as static HTML.

        A front end takes the widget; GitHub, HTML exports and committed notebooks take the view.
        """
        if self.work is not None:  # so that a saved notebook holds the finished view where possible
            self.work.wait(DISPLAY_WAIT)
        live = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        bundle: dict[str, Any] = {WIDGET_VIEW: live, "text/plain": type(self).__name__}
        # Colab does not document which of the two it would show
        return bundle if "google.colab" in sys.modules else {**bundle, "text/html": str(self.view.value)}


class BackgroundTask:
    """Run slow steps in a thread, with a progress bar and a cancel button.

        task = BackgroundTask()
        task.start([partial(encode, batch) for batch in batches], "encoding")
        task.wait()                                     # join the thread and raise what a step raised

    Canceling takes effect after the current step. `box` holds the bar, the button and a status line; it is hidden
    when there is nothing to show.
    """

    def __init__(self) -> None:
        widgets = controls()
        self.bar = widgets.IntProgress(min=0)
        self.cancel = widgets.Button(description="cancel", disabled=True)
        self.status = widgets.HTML()
        self.box = widgets.HBox([self.bar, self.cancel, self.status])
        self._canceled = threading.Event()
        self.cancel.on_click(lambda _: self._canceled.set())
        self.error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._show(running=False)

    def start(self, steps: Sequence[Callable[[], object]], label: str = "") -> None:
        """Cancel work that is still running, then run the steps in order."""
        self._canceled.set()
        if self._thread is not None:
            self._thread.join()
        self._canceled.clear()
        self.error, self.bar.value, self.bar.max = None, 0, len(steps)
        self._show(running=True, status=page("hint", text=label))
        self._thread = threading.Thread(target=self._run, args=(steps,), daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Join the thread and re-raise its error once; with a timeout, only wait."""
        if self._thread is not None:
            self._thread.join(seconds)
            if seconds is None:
                self._thread = None
                if self.error is not None:
                    raise self.error

    def _show(self, running: bool, status: str = "") -> None:
        self.cancel.disabled = not running
        self.bar.layout.display = self.cancel.layout.display = "" if running else "none"
        self.box.layout.display = "" if running or status else "none"
        self.status.value = status

    def _run(self, steps: Sequence[Callable[[], object]]) -> None:
        status = ""
        try:
            for number, step in enumerate(steps):
                if self._canceled.is_set():
                    status = page("hint", text=f"canceled after {number} of {len(steps)} steps")
                    break
                step()
                self.bar.value = number + 1
        except Exception as error:  # shown here and raised by wait()
            self.error = error
            status = page("message", text=error_text(error))
        finally:
            self._show(running=False, status=status)


class ImagePicker:
    """Choose one of several images from a menu, or upload one; the latest choice counts.

    picker = ImagePicker(widget, images, "image", widget.refresh, empty="no image")
    picker.image            # the chosen or uploaded image, or None

    `on_change` is called without arguments; `widget` shows its errors.
    """

    def __init__(
        self,
        widget: WidgetBase,
        images: Sequence[ImageLike],
        description: str,
        on_change: Callable[..., None],
        empty: str | None = None,
    ) -> None:
        self.images, self._on_change = list(images), on_change
        options = [] if empty is None else [(empty, NO_IMAGE)]
        options += [(f"image {number}", number - 1) for number in range(1, len(self.images) + 1)]
        self.menu = controls().Dropdown(options=options, description=description)
        self.upload = upload_button("your image")
        self.menu.observe(widget.handler(self._choose), "value")
        self.upload.observe(widget.handler(on_change), "value")

    @property
    def index(self) -> int | None:
        """Index of the image chosen from the menu; None for an upload or for no image."""
        return None if self.upload.value or self.menu.value == NO_IMAGE else self.menu.value

    @property
    def image(self) -> ImageLike | None:
        """The chosen or uploaded image. Raises BadInput for an uploaded file that is not an image."""
        return uploaded(self.upload) if self.index is None else self.images[self.index]

    def clear(self) -> None:
        """Choose no image."""
        clear_upload(self.upload)
        self.menu.value = NO_IMAGE

    def _choose(self) -> None:
        if self.upload.value:
            clear_upload(self.upload)  # which reports the change
        else:
            self._on_change()


def text_box(description: str, value: str = "") -> Any:
    """Create a wide text field that reports its value on Enter: `text_box("caption", "a dog")`."""
    widgets = controls()
    wide = widgets.Layout(width="36em")
    hint = "type and press Enter"
    return widgets.Text(value, description=description, placeholder=hint, continuous_update=False, layout=wide)


def text_of(box: Any) -> str:
    """Return what is typed in a text box. Raises ValueError that names the box if that is blank."""
    if not box.value.strip():
        raise ValueError(f"the field '{box.description}' is empty: type some text and press Enter")
    return box.value


def upload_button(description: str) -> Any:
    """Create a button that uploads one image: `upload_button("your image")`."""
    return controls().FileUpload(accept="image/*", multiple=False, description=description)


def uploaded(upload: Any) -> Image.Image | None:
    """Return the last file of an upload button as an RGB image; None if there is none.

    Raises BadInput for a file that is not an image.
    """
    value: Mapping[str, Any] | Sequence[Mapping[str, Any]] = upload.value
    if isinstance(value, Mapping):  # ipywidgets 7: {name: {"content": bytes, ...}}
        value = [{"name": name, **file} for name, file in value.items()]
    if not value:
        return None
    try:
        return open_image(bytes(value[-1]["content"]))  # ipywidgets 8 gives a memoryview
    except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
        reason = f" ({error})" if isinstance(error, BadInput) else ""
        name = value[-1].get("name", "the file")
        raise BadInput(f"{name} is not a readable image{reason}: upload a PNG, JPEG or WebP file") from error


def clear_upload(upload: Any) -> None:
    """Remove the files of an upload button, whose value is read-only in ipywidgets 7: `clear_upload(upload)`."""
    if upload.has_trait("_counter"):  # ipywidgets 7 rebuilds the value from these when the counter changes
        with upload.hold_sync():
            upload.metadata, upload.data, upload._counter = [], [], 0
    upload.set_trait("value", type(upload.value)())  # () in ipywidgets 8, {} in 7


def error_text(error: Exception) -> str:
    """Return an error's message, with its type if the error is unexpected: `error_text(KeyError(3))`."""
    return str(error) if isinstance(error, _EXPECTED) else f"{type(error).__name__}: {error}"
