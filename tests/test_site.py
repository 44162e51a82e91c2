"""The docs site: its navigation and API pages are complete, the code on its pages runs, dead links are found."""

import re
import runpy
import sys
import tomllib
import types
from pathlib import Path
from pkgutil import resolve_name

import pytest

import vladva_kit as vk

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAVIGATION = (ROOT / "mkdocs.yml").read_text()
# by test_readme; needs a folder of tar files; by tests/data/test_public_data.py, on miniatures
TESTED_ELSEWHERE = ("widgets.md", "scaling-guide.md", "public-data.md")
CODE = {page: "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)) for page in PAGES}
FULL, SHORT = "vk.Settings(steps=20, batch_size=32)", "vk.Settings(steps=1, batch_size=4)"
RUN = [page for page, code in CODE.items() if code and page.name not in TESTED_ELSEWHERE]


def test_navigation_has_each_page_and_notebook_once():
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.(?:md|ipynb))$", NAVIGATION, re.MULTILINE)
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES]
    notebooks = [f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert sorted(listed) == sorted([*pages, *notebooks])


def test_site_links_to_the_repository_of_the_package():
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert f"repo_url: {repository}\n" in NAVIGATION


def test_api_pages_document_every_public_name():
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    documented = [resolve_name(entry) for entry in re.findall(r"^::: (\S+)", text, re.MULTILINE)]
    for name in vk.__all__:
        value = getattr(vk, name)
        if isinstance(value, types.ModuleType):
            assert f"\n## {name.replace('_', ' ')}\n" in text
        else:
            assert any(value is other for other in documented), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert page.name != "getting-started.md" or FULL in CODE[page]
    exec(CODE[page].replace(FULL, SHORT), {})


def test_dead_links_and_anchors_are_found(tmp_path):
    dead_links = runpy.run_path(str(DOCS / "dead_links.py"))["dead_links"]
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="a/page.html#there">x</a><a href="a/page.html#gone">x</a><img src="gone.png">'
        '<a href="#top">x</a><h1 id="top"></h1><a href="https://example.org/gone">x</a><a href="mailto:a@b.c">x</a>'
    )
    (tmp_path / "a" / "page.html").write_text('<h2 id="there"></h2><a href="../">up</a><a href="../gone.html">x</a>')
    expected = [("a/page.html", "../gone.html"), ("index.html", "a/page.html#gone"), ("index.html", "gone.png")]
    assert dead_links(tmp_path) == expected


def test_examples_in_docstrings_become_code(monkeypatch):
    monkeypatch.setitem(sys.modules, "griffe", types.SimpleNamespace(Extension=object, Object=object))
    mark = runpy.run_path(str(DOCS / "docstring_examples.py"))["with_marked_examples"]
    code = "```python\nadd(1, 2)    # 3\n```"
    text = "Add.\n\n    add(1, 2)    # 3\n\na, b: integers, and\nnote: a word.\nRaises ValueError."
    assert mark(text) == f"Add.\n\n{code}\n\na, b: integers, and\nnote: a word.\n\nRaises ValueError."
    assert mark("Add.\n\nadd(1, 2)    # 3") == f"Add.\n\n{code}"
    assert mark("`source` is one of\n\nOne of\n- a\n- b") == "`source` is one of\n\nOne of\n\n- a\n- b"
