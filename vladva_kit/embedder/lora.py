"""Check and complete LoRA's settings: only what its own matrices hold is saved, and switched off by `base()`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from vladva_kit.embedder.soft_prompt import llm_linear_pattern
from vladva_kit.models.load import LVLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# LoraConfig's fields that change nothing but LoRA's own matrices, which are all that is saved and switched off. Others
# train the base's parameters (bias), replace its weights (PiSSA), or need a pass over data (EVA).
LORA_FIELDS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "init_lora_weights",
)  # fmt: skip
LORA_KINDS = {
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_pattern"), (str, list, tuple, set, frozenset)),
    "layers_to_transform": (int, list, tuple, range, set, frozenset),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), (dict,)),
}
SINGLE = [["ANY"], ["LITERAL"], ["NOT_LITERAL"], ["IN"], ["CATEGORY"]]  # parts of an expression that are one character
LORA_INITS = (True, False, "gaussian", "orthogonal")


def lora_settings(model: PreTrainedModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Complete LoRA's settings with the paper's (section 4.1) and the LLM's linear layers.

        lora_settings(model, {"r": 8})    # {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": …}

    A field of LoraConfig outside LORA_FIELDS may only have its default value. Raises ValueError for any other field or
    value, TypeError if `settings` is no mapping.
    """
    from peft import LoraConfig

    if not isinstance(settings, Mapping):
        raise TypeError(
            f"lora is a {type(settings).__name__}: pass True, False, or a dict of LoraConfig's fields, as {{'r': 8}}"
        )
    defaults = vars(LoraConfig())
    for name, value in settings.items():
        if name not in LORA_FIELDS and not (name in defaults and value == defaults[name]):
            raise ValueError(
                f"lora has no setting '{name}'; since only LoRA's own matrices are saved and switched off, the "
                f"settings are {', '.join(sorted(LORA_FIELDS))}"
            )
    _check_lora_values(settings)
    kept = {name: _without_sets(value) for name, value in settings.items() if name in LORA_FIELDS}
    targets = kept.pop("target_modules", None)
    targets = llm_linear_pattern(model) if targets is None else targets
    try:
        json.dumps(kept)
    except TypeError as error:
        raise ValueError(f"lora={kept} cannot be saved ({error}): use numbers, texts, lists and dicts") from error
    for name, rank in {"r": kept.get("r", 16), **(kept.get("rank_pattern") or {})}.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"lora={{'r': …}} is {rank!r} for {name}: pass a positive whole number, such as 16")
    return {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, **kept, "target_modules": targets}


def _check_lora_values(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for values with which LoRA would change the base model or train nothing."""
    init = settings.get("init_lora_weights", True)
    if not any(init is allowed or init == allowed and isinstance(init, str) for allowed in LORA_INITS):
        raise ValueError(
            f"lora={{'init_lora_weights': {init!r}}} is not supported: it replaces the base model's weights, or needs "
            f"a pass over data first; use {', '.join(map(repr, LORA_INITS))}"
        )
    alphas = {"lora_alpha": settings.get("lora_alpha", 16), **(settings.get("alpha_pattern") or {})}
    for name, alpha in alphas.items():
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
            raise ValueError(f"lora={{'lora_alpha': …}} is {alpha!r} for {name}: pass a positive number, such as 16")
    for name, kinds in LORA_KINDS.items():
        value = settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            named = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"lora={{{name!r}: {value!r}}}: pass a value of type {named}")
    for name in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
        value = settings.get(name) or ()
        for pattern in [value] if isinstance(value, str) else value:
            check_pattern(pattern, f"lora={{'{name}': …}}")
    dropout = settings.get("lora_dropout", 0.0)
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"lora={{'lora_dropout': {dropout!r}}}: pass a number from 0 up to, but not including, 1")


def check_pattern(pattern: str, where: str) -> None:
    r"""Check that a regular expression is fast on any text: `check_pattern(r".*\.(q|v)_proj", "target_modules")`.

    Only single characters may repeat, in at most three places, and eight parts may be optional: `(a+)+b` takes longer
    than the age of the universe for 80 letters. Raises ValueError otherwise.
    """
    try:
        repeats = list(_repeats(re._parser.parse(pattern)))  # type: ignore[attr-defined]  # not in the stubs
        if sum(repeats) > 3 or len(repeats) - sum(repeats) > 8:
            raise ValueError
    except (ValueError, TypeError, RecursionError, OverflowError, re.error) as error:
        raise ValueError(
            f"{where}: {pattern!r} is not a regular expression of which only single characters repeat, as in "
            "'.*\\.q_proj': give the names of the layers as a list"
        ) from error


def _repeats(parts: Any) -> Iterator[bool]:
    """Yield for each repeat in a parsed expression whether it may be more than once; ValueError for one of a group."""
    for kind, value in parts:
        name = str(kind)
        if name.endswith("_REPEAT"):
            _, most, body = value
            if most > 1 and [str(part) for part, _ in body] not in SINGLE:
                raise ValueError
            yield most > 1
            yield from _repeats(body)
        elif name == "BRANCH":
            for part in value[1]:
                yield from _repeats(part)
        elif name in ("SUBPATTERN", "ATOMIC_GROUP", "ASSERT", "ASSERT_NOT"):
            yield from _repeats(value if name == "ATOMIC_GROUP" else value[-1])
        elif [name] not in SINGLE and name != "AT":  # such as a back reference
            raise ValueError


def _without_sets(value: Any) -> Any:
    """Return lists for sets, sorted, and for other collections: JSON has no others."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return list(value) if isinstance(value, tuple | range) else value


def check_targets(lvlm: LVLM, targets: str | Sequence[str]) -> None:
    """Check that LoRA's targets match linear layers, and no embedding: `check_targets(lvlm, ["q_proj", "v_proj"])`.

    Raises ValueError naming a layer of the model otherwise.
    """
    if targets == "all-linear":
        return
    pattern = targets if isinstance(targets, str) else rf"(.*\.)?({'|'.join(map(re.escape, targets))})"
    linear = [name for name, module in lvlm.model.named_modules() if isinstance(module, nn.Linear)]
    matched = [(name, module) for name, module in lvlm.model.named_modules() if re.fullmatch(pattern, name)]
    if not any(isinstance(module, nn.Linear) for _, module in matched):
        raise ValueError(
            f"target_modules={targets} match no linear layer of {lvlm.name}, so LoRA would train nothing: "
            f"its layers have names like '{linear[-1]}'"
        )
    if embeddings := [name for name, module in matched if isinstance(module, nn.Embedding)]:
        raise ValueError(
            f"target_modules={targets} match the embedding '{embeddings[0]}', on which LoRA is not supported: name "
            f"linear layers, such as '{linear[-1]}'"
        )
