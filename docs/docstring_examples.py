"""Mark examples in docstrings as Python code for the API pages."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

LIST = re.compile(r"(?<=\n)((?!- |\s).*\n)(?=- )")  # a line that is followed by a list
ARGUMENT = re.compile(r"(?<=[.:])\n(?=(?:\w+(?:, \w+)*: |Raises |Warns |Returns ))")  # "seed: …" on a new line


def with_marked_examples(text: str) -> str:
    """Fence the paragraphs of a docstring that are Python code; set off arguments, errors and lists by blank lines.

    A docstring whose only example is its second paragraph is not indented, so Markdown would render it as prose.
    """
    paragraphs = []
    for paragraph in text.split("\n\n"):
        indented = all(line.startswith("    ") for line in paragraph.splitlines() if line)
        code = "\n".join(line.removeprefix("    ") for line in paragraph.splitlines()) if indented else paragraph
        is_code = indented or _is_code(code)
        paragraphs.append(f"```python\n{code}\n```" if is_code else ARGUMENT.sub("\n\n", paragraph))
    return LIST.sub(r"\1\n", "\n\n".join(paragraphs))


def _is_code(paragraph: str) -> bool:
    """Whether a paragraph is Python code; one word or a sentence without calls is not."""
    try:
        tree = ast.parse(paragraph)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.Assign | ast.Compare) for node in ast.walk(tree))


class MarkExamples(griffe.Extension):
    """Rewrite each docstring when it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace the docstring's text."""
        if obj.docstring is not None:
            obj.docstring.value = with_marked_examples(obj.docstring.value)
