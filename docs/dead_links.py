"""Find dead links in a folder of HTML pages: `python docs/dead_links.py runs/site`."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Links(HTMLParser):
    """Collect a page's links, images and anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {""}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        self.links |= {values[name] for name in ("href", "src") if values.get(name)}


def dead_links(site: Path) -> list[tuple[str, str]]:
    """Return (page, link) of each relative link whose file or anchor does not exist: `dead_links(Path("runs/site"))`.

    Links to other sites are not opened.
    """
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = _Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    dead = []
    for path, page in sorted(pages.items()):
        for link in sorted(page.links):
            url = urlsplit(link)
            if url.scheme or url.netloc or path.name == "404.html":  # its links are those of every page, made absolute
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else None
            missing_anchor = anchors is not None and unquote(url.fragment) not in anchors
            if not target.exists() or (missing_anchor and not url.fragment.startswith("__")):  # set by the theme
                dead.append((path.relative_to(site).as_posix(), link))
    return dead


if __name__ == "__main__":
    for where, link in dead_links(Path(sys.argv[1])):
        print(f"{where}: {link}")
