"""What widgets show: HTML in which every text is escaped, and every picture has words for those who cannot see it."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from vladva_kit.embedder.prompts import encode_caption

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECES = re.compile(r"\w+|[^\w\s]+")


class View(str):
    """HTML that a notebook shows as the last line of a cell; `print` gives its source."""

    def _repr_html_(self) -> str:
        return str(self)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vladva_kit.widgets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = marked
    return environment


def page(template: str, **values: Any) -> View:
    """A template with its values, each text escaped: `page("message", text="<b>")` shows "<b>", not bold."""
    return View(_environment().get_template(f"{template}.html.j2").render(**values))


def unseen_words(tokenizer: PreTrainedTokenizerBase | None, text: str) -> frozenset[str]:
    """The words that an LVLM reads as "unknown": `unseen_words(tokenizer, "a zebra")` -> frozenset({"zebra"}).

    A tokenizer that can write any word, as most can, leaves none out.
    """
    if tokenizer is None or tokenizer.unk_token_id is None:
        return frozenset()
    return frozenset(
        word for word in set(_PIECES.findall(text)) if tokenizer.unk_token_id in encode_caption(tokenizer, word)
    )


def marked(text: str, unseen: Collection[str] = ()) -> Markup:
    """Escaped text in which the words of `unseen` are underlined: `marked("a zebra", {"zebra"})`."""
    said, place = Markup(), 0
    for piece in _PIECES.finditer(text):
        if piece.group() in unseen:
            said += escape(text[place : piece.start()])
            said += Markup('<mark title="the LVLM has never seen this word">{}</mark>').format(piece.group())
            place = piece.end()
    return said + escape(text[place:])
