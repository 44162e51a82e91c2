"""Eight checks of any LVLM: `vk.check(lvlm)`, or `vladva check MODEL`.

They need no data and no network: three images are drawn, the captions are fixed. They find what otherwise fails
silently: wrong positions, padding or token types, LoRA targets that match nothing, an adapter that stays partly on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vladva_kit.checks import adapters, embeddings
from vladva_kit.checks.model import CAPTIONS, LONG_CAPTIONS, CheckedModel, CheckFailed, example_images
from vladva_kit.embedder.adapter import detach_adapter
from vladva_kit.models.load import LVLM

__all__ = ["CAPTIONS", "LONG_CAPTIONS", "CheckFailed", "CheckResult", "check", "example_images"]

# In running order, on one copy of the model: untouched, adapter attached, trained, switched off, loaded again.
_CHECKS: Sequence[tuple[int, str, Callable[[CheckedModel], str]]] = (
    (1, "embeddings match the model's plain forward pass", embeddings.matches_plain_forward),
    (2, "embeddings do not depend on the batch size", embeddings.independent_of_batch_size),
    (7, "embeddings depend on the image; special tokens in captions are plain text", embeddings.depends_on_image),
    (3, "only soft prompts, the LLM's LoRA and the temperature are trainable", adapters.only_adapter_is_trainable),
    (6, "a long caption does not change the image embedding", embeddings.caption_does_not_change_summary),
    (8, "one training step lowers the loss and keeps the base weights", adapters.training_step_lowers_loss),
    (5, "the model is bit-identical to the base with the adapter off", adapters.adapter_off_restores_base),
    (4, "saving and loading an adapter keeps the embeddings", adapters.save_load_round_trip),
)


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check: its number and name, whether it passed, and what was measured."""

    number: int
    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.number}  {'pass' if self.passed else 'FAIL'}  {self.name}: {self.detail}"


def check(lvlm: LVLM) -> list[CheckResult]:
    """Run the eight checks on an LVLM and leave it unchanged: `[result.passed for result in check(lvlm)]`.

    The cost is about forty forward passes and one training step. A check that raises an error counts as failed.
    Raises ValueError if the LVLM has an adapter.
    """
    if lvlm.adapter is not None:
        raise ValueError(f"{lvlm.name} has an adapter: check the LVLM as load_lvlm returns it")
    run = CheckedModel(lvlm, example_images())
    results = []
    try:
        for number, name, function in _CHECKS:
            try:
                results.append(CheckResult(number, name, True, function(run)))
            except Exception as error:  # an unknown family may raise anything, anywhere
                message = " ".join(str(error).split())
                detail = message if isinstance(error, CheckFailed) else f"{type(error).__name__}: {message}"
                results.append(CheckResult(number, name, False, detail))
    finally:
        if lvlm.adapter is not None:
            detach_adapter(lvlm)
    return sorted(results, key=lambda result: result.number)
