"""HTML of the widgets: every text is escaped and every image has a text alternative."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import jinja2
from markupsafe import Markup, escape
from transformers import PreTrainedTokenizerBase

from vladva_kit.embedder.prompts import encode_caption
from vladva_kit.plots.style import image_uri, thumbnail, wrap_text

_WORDS = re.compile(r"\w+|[^\w\s]+")


class View(str):
    """HTML that a notebook displays as the result of a cell; `print` shows its source."""

    def _repr_html_(self) -> str:
        return str(self)


@lru_cache
def templates(package: str) -> jinja2.Environment:
    """Load the HTML templates of a package; they escape every value: `templates("vladva_kit.widgets")`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"mark_unseen": mark_unseen, "score": score_text, "uri": image_uri, "thumbnail": thumbnail}
    environment.filters.update(filters, wrap=wrap_text)
    return environment


def page(template: str, **values: Any) -> View:
    """Render a template with escaped values: `page("message", text="<b>")` shows "<b>" and not bold text."""
    html = templates("vladva_kit.widgets").get_template(f"{template}.html.j2").render(**values)
    return View(html.encode("utf-8", "replace").decode())  # half characters, which no front end can be sent


def score_text(value: float, sign: str = "") -> str:
    """Format a cosine with two decimals and a true minus sign: `score_text(-0.126) == "−0.13"`.

    With sign="+", a difference of cosines is formatted with its sign: `score_text(0.1, "+") == "+0.10"`.
    """
    return f"{value:{sign or 'z'}.2f}".replace("-", "−")


def unseen_words(tokenizer: PreTrainedTokenizerBase | None, text: str) -> frozenset[str]:
    """Return the words that a tokenizer maps to "unknown": `unseen_words(tokenizer, "a zebra") == {"zebra"}`.

    Most tokenizers can encode any word; for them, and for None, the result is empty.
    """
    if tokenizer is None or tokenizer.unk_token_id is None:
        return frozenset()
    words = set(_WORDS.findall(text.encode("utf-8", "ignore").decode()))  # without half characters
    return frozenset(word for word in words if tokenizer.unk_token_id in encode_caption(tokenizer, word))


def mark_unseen(text: str, unseen: Collection[str] = ()) -> Markup:
    """Escape a text and underline the words in `unseen`: `mark_unseen("a zebra", {"zebra"})`."""
    html, end = Markup(), 0
    for word in _WORDS.finditer(text):
        if word.group() in unseen:
            html += escape(text[end : word.start()])
            html += Markup('<mark title="not in the LVLM’s vocabulary">{}</mark>').format(word.group())
            end = word.end()
    return html + escape(text[end:])
