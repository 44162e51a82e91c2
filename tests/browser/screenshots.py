"""Take the README's screenshots of the widgets in JupyterLab: python -m tests.browser.screenshots

Overwrites docs/images/*.png; run it when the shipped weights change. `make screenshots` installs what it needs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .front_end import ROOT, chromium, jupyter, missing, opened
from .gallery import write_gallery
from .widget_page import press, select, slide, wait_for_text

FOLDER = ROOT / "docs" / "images"
MAX_BYTES = 300_000


def explorer(widget: Any) -> None:
    """Show the fine-tuned model's matrix, with an image and a caption that are not a pair."""
    press(widget, "fine-tuned")
    slide(widget, "image", 2)
    select(widget, "caption", 8)
    wait_for_text(widget, "image 2, caption 9")
    wait_for_text(widget, re.compile("^fine-tuned"))


def training(widget: Any) -> None:
    """Start a run and pause it."""
    press(widget, "start")
    wait_for_text(widget, re.compile(r": step ([3-9]\d|\d{3}) of 400"))
    press(widget, "pause")
    wait_for_text(widget, re.compile("^paused"))


def stop_training(widget: Any) -> None:
    """Stop the paused run."""
    press(widget, "stop and keep")
    wait_for_text(widget, re.compile("^stopped"))


SHOTS: dict[str, Callable[[Any], None]] = {"explorer": explorer, "training": training}


def main() -> None:
    """Write one image for each of SHOTS. Raises RuntimeError if there is no browser, or if an image is too large."""
    if reason := missing():
        raise RuntimeError(reason)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser, jupyter("lab", Path(folder)) as server:
        write_gallery(server.folder / "gallery.ipynb", ["setup", *SHOTS])
        with opened(browser, server, "gallery.ipynb") as notebook:
            notebook.run_all()
            for name, prepare in SHOTS.items():
                prepare(notebook.output(name))
                content = notebook.output(name).locator(".widget-vbox").first.screenshot()
                if len(content) > MAX_BYTES:
                    raise RuntimeError(f"{name}.png would have {len(content):,} bytes; the limit is {MAX_BYTES:,}")
                (FOLDER / f"{name}.png").write_bytes(content)
            stop_training(notebook.output("training"))


if __name__ == "__main__":
    main()
