"""Render chat templates, which are programs of a model's repository, with a time limit."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import ProcessorMixin

MAX_SECONDS = 2.0  # of CPU time in one template; usual ones take a millisecond
_CODE = "<template>"  # the file name of Jinja's compiled templates


class _TooSlow(Exception):
    pass


def render_chat(processor: ProcessorMixin, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """Render a chat with the processor's template: `render_chat(processor, messages, add_generation_prompt=True)`.

    The template runs in Jinja's sandbox, which limits one loop and no nest of loops. Raises ValueError in one sentence
    if it takes more than MAX_SECONDS, all memory, or is wrong.
    """
    try:
        with _time_limit():
            return processor.apply_chat_template(cast("list[dict[str, str]]", list(messages)), **options)
    except (TemplateError, _TooSlow, MemoryError, RecursionError, TypeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        if isinstance(error, _TooSlow):
            reason = f"it takes more than {MAX_SECONDS:g} s"
        raise ValueError(
            f"the chat template cannot be used ({reason}): correct processor.chat_template, or load the model from "
            "another source"
        ) from error


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise _TooSlow in a template's own lines once this thread has used MAX_SECONDS of CPU time."""
    end, before = time.thread_time() + MAX_SECONDS, sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != _CODE:
            return None
        if time.thread_time() > end:
            raise _TooSlow
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
