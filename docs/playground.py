"""Record the README's animated image of the playground, and the screenshot of its first tab.

python docs/playground.py    # needs the extra `browser` and Chromium

Writes docs/playground.gif and docs/images/playground.png.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `tests` is not installed

import vladva_kit as vk  # noqa: E402
from tests.browser.front_end import chromium  # noqa: E402
from vladva_kit.cli.play import page_server  # noqa: E402

SIZE = {"width": 1060, "height": 760}
MAX_BYTES = 1_500_000
TABS = ("Compose", "Attention", "Chat", "Search", "Matrix")


@contextmanager
def playground_url() -> Iterator[str]:
    """Serve the playground with the shipped models, as `vladva play` does."""
    lvlm = vk.load_lvlm("emoji-llava")
    tuned = vk.Embedder.from_pretrained("emoji-llava-vladva", lvlm)
    models = {"base": vk.Embedder(lvlm), "emoji-clip": vk.ClipEmbedder("emoji-clip"), "fine-tuned": tuned}
    with page_server(vk.playground(models)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def record(page: Any) -> list[tuple[Image.Image, int]]:
    """Step through cases, edit a caption, and open each tab; return frames with their milliseconds."""
    frames: list[tuple[Image.Image, int]] = []

    def keep(milliseconds: int) -> None:
        frames.append((Image.open(io.BytesIO(page.screenshot())).convert("RGB"), milliseconds))

    page.wait_for_function("() => !document.querySelector('.strip .unscored')", timeout=300_000)
    page.wait_for_timeout(1500)  # it opens with a case that the fine-tune fixed
    keep(2500)
    caption = page.locator("textarea, input[type=text]").first
    words = caption.input_value()
    caption.press("End")
    for extra in (" and", " and a", " and a dog"):
        caption.fill(words + extra)
        page.wait_for_timeout(1500)
        keep(700)
    keep(1500)
    caption.fill(words)
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        if name == "Chat":
            page.get_by_role("button", name="what color is the bear?").click()
        page.wait_for_timeout(6000)
        page.wait_for_function("() => !document.body.innerText.includes('encoding the')", timeout=300_000)
        page.wait_for_timeout(1000)
        keep(2200)
    return frames


def main() -> None:
    """Write both files. Raises RuntimeError if the animation is too large."""
    with playground_url() as url, chromium() as browser:
        page = browser.new_context(viewport=SIZE).new_page()
        page.goto(url)
        frames = record(page)
    frames[0][0].quantize(256).save(ROOT / "docs" / "images" / "playground.png", optimize=True)
    images = [frame.resize((frame.width * 3 // 4, frame.height * 3 // 4), Image.LANCZOS) for frame, _ in frames]
    buffer = io.BytesIO()
    palettes = [image.quantize(256, dither=Image.Dither.NONE) for image in images]
    options = {"duration": [milliseconds for _, milliseconds in frames], "loop": 0, "optimize": True}
    palettes[0].save(buffer, "GIF", save_all=True, append_images=palettes[1:], **options)
    if buffer.tell() > MAX_BYTES:
        raise RuntimeError(f"the animation has {buffer.tell():,} bytes; the limit is {MAX_BYTES:,}")
    (ROOT / "docs" / "playground.gif").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
