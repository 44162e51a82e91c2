"""A variant of the next-token loss: a long caption attends to the summary token and to itself, but not to the image.

The caption then depends on the embedding alone. The variant is measured here and not part of the kit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import vladva_kit as vk
from experiments.paper.plan import CONTEXT_WEIGHTS, Plan, trained
from experiments.paper.runs import train_and_evaluate
from vladva_kit.embedder.prompts import ModelInputs
from vladva_kit.models.files import json_text


def summary_only(batch: ModelInputs) -> ModelInputs:
    """Hide all before the summary token from the tokens after it: `summary_only(batch).inputs["attention_mask"]`.

    The mask is (batch, 1, length, length) bool, True where a token attends to another. The LVLM must be emoji-llava,
    whose attention takes such a mask.
    """
    is_token = batch.inputs["attention_mask"].bool()
    position = torch.arange(is_token.shape[1], device=is_token.device)
    summary = batch.summary_positions[:, None].to(is_token.device)
    hidden = (position > summary)[:, :, None] & (position < summary)[:, None, :]
    causal = position[:, None] >= position[None, :]
    # padding attends to itself, since a row without any attention gives NaN
    mask = causal & is_token[:, None, :] & ~hidden | torch.eye(len(position), dtype=torch.bool, device=is_token.device)
    return replace(batch, inputs={**batch.inputs, "attention_mask": mask[:, None]})


@contextmanager
def captions_see_summary_only() -> Iterator[None]:
    """Use the variant in all training steps of a block: `with captions_see_summary_only(): vk.fit(…)`."""
    hidden_states = vk.Embedder.hidden_states

    def masked(embedder: vk.Embedder, batch: ModelInputs, *arguments: Any) -> Tensor:
        batch = batch if batch.labels is None else summary_only(batch)
        return hidden_states(embedder, batch, *arguments)

    with patch.object(vk.Embedder, "hidden_states", masked):
        yield


def study_context(plan: Plan, cache: Path | None = None) -> dict[str, Any]:
    """Train the full method with the variant at two weights; return a record per weight, as of a run.

    study_context(Plan())["weight 1, summary token only"]["measures"]
    """
    records = {}
    for weight in CONTEXT_WEIGHTS:
        run = trained(plan, plan.seeds[0], next_token_weight=weight, n_probe_images=0)
        with captions_see_summary_only():
            record = train_and_evaluate(run, cache)
        records[f"weight {weight:g}, summary token only"] = json.loads(json_text(record))
    return records
