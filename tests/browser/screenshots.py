"""Takes the README's pictures of the widgets, from a real JupyterLab: python -m tests.browser.screenshots

Writes docs/images/*.png anew; run it again when the shipped weights change. `make screenshots` installs its needs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .front_end import ROOT, chromium, jupyter, missing, opened
from .gallery import write_gallery
from .widget_page import chosen, pressed, says, slid

FOLDER = ROOT / "docs" / "images"
MOST_BYTES = 300_000


def probe(shown: Any) -> None:
    """A case about which two things lie where."""
    chosen(shown, "category", "Relation")
    says(shown, re.compile("^1 of .*Relation"))


def explorer(shown: Any) -> None:
    """The fine-tuned model's matrix, at a picture and a caption that do not belong together."""
    pressed(shown, "fine-tuned")
    slid(shown, "picture", 2)
    chosen(shown, "caption", 8)
    says(shown, "picture 2, caption 9")
    says(shown, re.compile("^fine-tuned"))


def training(shown: Any) -> None:
    """A run under way, paused for the picture."""
    pressed(shown, "start")
    says(shown, re.compile(r": step ([3-9]\d|\d{3}) of 400"))
    pressed(shown, "pause")
    says(shown, re.compile("^paused"))


def ended(shown: Any) -> None:
    """Leaves no training behind."""
    pressed(shown, "stop and keep")
    pressed(shown, "pause")
    says(shown, "stopped, and kept")


TAKEN: dict[str, Callable[[Any], None]] = {"probe": probe, "explorer": explorer, "training": training}


def main() -> None:
    """Writes one picture for each of TAKEN. RuntimeError: there is no browser, or a picture is too large."""
    if why := missing():
        raise RuntimeError(why)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser, jupyter("lab", Path(folder)) as server:
        write_gallery(server.folder / "gallery.ipynb", ["setup", *TAKEN])
        with opened(browser, server, "gallery.ipynb") as page:
            page.run_all()
            for name, act in TAKEN.items():
                act(page.output(name))
                picture = page.output(name).locator(".widget-vbox").first.screenshot()
                if len(picture) > MOST_BYTES:
                    raise RuntimeError(f"{name}.png would be {len(picture):,} bytes; the limit is {MOST_BYTES:,}")
                (FOLDER / f"{name}.png").write_bytes(picture)
            ended(page.output("training"))


if __name__ == "__main__":
    main()
