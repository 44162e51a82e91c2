"""Hooks of the docs site: notebooks as pages, links into the repository, and a check of every link in the built pages.

`make docs` runs them. A dead link is a warning, and `mkdocs build --strict` fails on warnings. Links to other sites are
not opened, since the build runs offline.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path

from dead_links import dead_links  # mkdocs puts this folder on the path while it loads the hooks
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PLAYGROUND = ROOT / "runs" / "playground.html"  # by docs/browser_playground.py
RELATIVE_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")
NOTEBOOK_LINK = re.compile(r'(href=")(\w+)\.ipynb(")')
log = logging.getLogger("mkdocs.hooks.site")  # mkdocs counts the warnings of its own loggers


@event_priority(100)  # before mkdocs-jupyter, which turns the files into pages
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks and the playground, which are outside docs/."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File(f"notebooks/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    if PLAYGROUND.is_file():
        files.append(File(PLAYGROUND.name, str(PLAYGROUND.parent), config.site_dir, config.use_directory_urls))
    else:  # it needs torch, which a build of the pages alone does not
        files.append(File.generated(config, PLAYGROUND.name, content="<p>Not built: run <code>make docs</code>.</p>"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/ into links to the repository, and render Markdown inside <details>."""

    def resolve(match: re.Match[str]) -> str:
        folder = Path(config.docs_dir, page.file.src_uri).parent
        target = (folder / match[2]).resolve()
        if target.parent == NOTEBOOKS:
            here = posixpath.dirname(page.file.src_uri) or "."
            return match[1] + posixpath.relpath(f"notebooks/{target.name}", here)
        inside = files.get_file_from_path(os.path.relpath(target, config.docs_dir).replace(os.sep, "/"))
        if inside is not None and inside.inclusion.is_included():
            return match[0]
        if not target.exists() or not target.is_relative_to(ROOT):
            log.warning(f"{page.file.src_uri} links to {match[2]}, which does not exist")
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"{match[1]}{config.repo_url.rstrip('/')}/{kind}/main/{target.relative_to(ROOT).as_posix()}"

    return RELATIVE_LINK.sub(resolve, markdown).replace("<details>", '<details markdown="1">')


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links between notebooks at their pages; mkdocs does not see them."""
    return NOTEBOOK_LINK.sub(r"\1\2.html\3", html) if page.file.src_uri.endswith(".ipynb") else html


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of each link in the built pages whose file or anchor does not exist."""
    for where, link in dead_links(Path(config.site_dir)):
        log.warning(f"{where} has a dead link: {link}")
