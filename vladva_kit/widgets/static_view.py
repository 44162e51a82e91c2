"""Static views of widgets, which a notebook saved by JupyterLab shows when it is opened without a kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"  # MIME type of a live widget in a notebook
# A saved notebook has no kernel, and JupyterLab shows an error in place of its widgets: hide it, and show the static
# view that follows. As long as a widget is live, the static view is hidden.
STATIC_STYLE = """<style>
.jp-OutputArea-child:has(> .jp-OutputArea-output.jupyter-widgets),
.jp-OutputArea-child:has(> .jp-OutputArea-output > .lm-Widget) + .jp-OutputArea-child:has(.vk-static)
{ display: none }
</style>"""


def saved_by_jupyter() -> bool:
    """Tell whether JupyterLab or Notebook 7 shows and saves the outputs, and not Colab, Kaggle, VS Code or a script."""
    hosted = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
    return "JPY_SESSION_NAME" in os.environ and not hosted


def static_html(view: str) -> str:
    """Mark a static view, which is shown in a saved notebook only: `static_html(widget.view.value)`."""
    return f'<div class="vk-static">{STATIC_STYLE}{view}</div>'


def display_live_and_static(bundle: Mapping[str, Any]) -> Any:
    """Display a widget and its static view as two outputs, and return the handle of the second one.

        display_live_and_static(widget._repr_mimebundle_()).update({"text/html": static_html(…)}, raw=True)

    Of one output with both, JupyterLab shows the widget only, which a saved notebook has no longer. Raises
    NotImplementedError, which makes IPython display the bundle itself, for other front ends and for a bundle without
    one of the two.
    """
    if not saved_by_jupyter() or not {WIDGET_VIEW, "text/html"} <= bundle.keys():
        raise NotImplementedError("one output is shown here")
    from IPython.display import display

    display({key: value for key, value in bundle.items() if key != "text/html"}, raw=True)
    static = {"text/html": static_html(bundle["text/html"]), "text/plain": bundle["text/plain"]}
    return display(static, raw=True, display_id=True)
