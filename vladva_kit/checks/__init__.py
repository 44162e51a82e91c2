"""The eight checks that every family is held to, for any model: `vladva check MODEL` prints them.

They need no data and no hub: three small pictures are drawn, a few captions are given. They try what can go wrong
without a word: positions, padding, token types, targets that match nothing, an adapter that is not wholly off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vladva_kit.checks.adapters import (
    off_is_the_base,
    one_step_lowers_the_loss,
    only_what_should_learns,
    saved_is_loaded,
)
from vladva_kit.checks.embeddings import (
    caption_behind_changes_nothing,
    equals_own_forward,
    one_equals_many,
    reads_pictures_and_only_them,
)
from vladva_kit.checks.model import CAPTIONS, LONG, CheckedModel, NotHeld, example_pictures
from vladva_kit.embedder.adapter import detach_adapter
from vladva_kit.models.load import LVLM

__all__ = ["CAPTIONS", "LONG", "Check", "NotHeld", "example_pictures", "run_checks"]


@dataclass(frozen=True)
class Check:
    """One of the eight: what it holds the model to, whether it does, and what was measured."""

    number: int
    what: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.number}  {'holds' if self.passed else 'FAILS'}  {self.what}: {self.detail}"


def run_checks(lvlm: LVLM) -> list[Check]:
    """The eight checks in their order; the LVLM is left as it was.

        [check.passed for check in run_checks(load_lvlm("emoji-llava"))]    # [True, True, …], eight

    A check that cannot be run counts as failed, with its error. Raises ValueError for an LVLM with an adapter.
    """
    if lvlm.adapter is not None:
        raise ValueError(f"{lvlm.name} carries an adapter: the checks need the LVLM as load_lvlm gives it")
    run = CheckedModel(lvlm, example_pictures())
    done = []
    try:
        for number, what, check in _CHECKS:
            try:
                done.append(Check(number, what, True, check(run)))
            except Exception as error:  # a model of any family, which may break anywhere: said in its line
                said = " ".join(str(error).split())
                detail = said if isinstance(error, NotHeld) else f"{type(error).__name__}: {said}"
                done.append(Check(number, what, False, detail))
    finally:
        if lvlm.adapter is not None:
            detach_adapter(lvlm)
    return sorted(done, key=lambda check: check.number)


# in the order in which one copy of the model goes through them: untouched, attached, trained, off, loaded again
_CHECKS: Sequence[tuple[int, str, Callable[[CheckedModel], str]]] = (
    (1, "embeddings equal the family's own forward", equals_own_forward),
    (2, "a batch of one equals a batch of many", one_equals_many),
    (7, "another picture is another embedding, special tokens in captions are text", reads_pictures_and_only_them),
    (3, "only soft prompts, the LLM's LoRA and the temperature learn", only_what_should_learns),
    (6, "a long caption behind it leaves the summary as it is", caption_behind_changes_nothing),
    (8, "one training step lowers the loss and leaves the base alone", one_step_lowers_the_loss),
    (5, "with the adapter off it is the base, bit for bit", off_is_the_base),
    (4, "what is saved is what is loaded", saved_is_loaded),
)
