"""Run the frozen vision encoder once per image and reuse its output.

transformers accepts such features as `mm_encoder_outputs`, mllama as `cross_attention_states`. They are kept per image
on the CPU, so that a large batch's features do not occupy GPU memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from vladva_kit.embedder.prompts import ModelInputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vladva_kit.embedder.embedder import Embedder


@dataclass(frozen=True)
class FeatureLayout:
    """How a family's language model expects the features."""

    as_list: tuple[bool, ...] = ()  # per layer: a list of tensors, or one tensor with a batch axis
    cross_attention_tokens: int | None = None  # tokens per tile of cross-attention states (mllama)


@dataclass(frozen=True)
class ImageFeatures:
    """Features of images, on the CPU.

    rows: per image a tuple of layers, each (tokens, dim): the language model's input first, then what some families add
    to deeper layers.
    """

    rows: list[tuple[Tensor, ...]]
    layout: FeatureLayout

    def nbytes(self) -> int:
        """Return the size of the features in bytes."""
        return sum(layer.numel() * layer.element_size() for row in self.rows for layer in row)


def vision_encoder_is_frozen(model: PreTrainedModel) -> bool:
    """Return whether nothing before the language model is trainable, so that image features can be reused."""
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    after_features = (f"{decoder}.", "lm_head.", "temperature.")
    return all(name.startswith(after_features) for name, weight in model.named_parameters() if weight.requires_grad)


def pixel_counts(inputs: ModelInputs, image_token: int | None) -> list[int] | None:
    """Return how many leading entries of a flat pixel array each row owns, or None if pixels have a batch axis.

    Qwen's processors (patches) and InternVL's (tiles) put the pixels of all images into one array without a batch axis.
    A row owns the same share of it as of the image tokens.
    """
    pixels, ids = inputs.inputs.get("pixel_values"), inputs.inputs["input_ids"]
    if pixels is None or image_token is None or len(pixels) == len(ids):
        return None
    tokens = (ids == image_token).sum(1)
    return (tokens * len(pixels) // tokens.sum()).tolist()


def take_rows(batch: ModelInputs, rows: Sequence[int], image_token: int | None = None) -> ModelInputs:
    """Select rows of a batch and drop the padding that only the other rows needed: `take_rows(batch, [0, 3])`."""
    index = torch.as_tensor(rows, dtype=torch.long)
    ids = batch.inputs["input_ids"]
    length = int(batch.inputs["attention_mask"][index].sum(1).max())
    counts = pixel_counts(batch, image_token)
    inputs = {}
    for name, value in batch.inputs.items():
        if counts is not None and name == "pixel_values":
            parts = value.split(counts)
            inputs[name] = torch.cat([parts[row] for row in rows])
        else:
            selected = value[index]
            inputs[name] = selected[:, :length] if value.shape[:2] == ids.shape else selected
    labels = None if batch.labels is None else batch.labels[index, :length]
    return replace(batch, inputs=inputs, summary_positions=batch.summary_positions[index], labels=labels)


@torch.no_grad()
def encode_image_features(embedder: Embedder, batch: ModelInputs) -> ImageFeatures | None:
    """Compute the image features of a batch; None for a family that cannot take features back.

    features = encode_image_features(embedder, batch)
    embedder.hidden_states(with_features(embedder, batch, features, range(4)))
    """
    inner, moved = embedder.lvlm.model.model, batch.to(embedder.device)
    parameters = inspect.signature(inner.forward).parameters
    if "mm_encoder_outputs" in parameters:
        accepted = inspect.signature(inner.get_image_features).parameters
        output = inner.get_image_features(
            **{name: value for name, value in moved.inputs.items() if name in accepted}, return_dict=True
        )
        tokens = moved.inputs["input_ids"] == embedder.lvlm.model.config.image_token_id
        layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        rows = [_flatten(layer).cpu().split(tokens.sum(1).tolist()) for layer in layers]
        layout = FeatureLayout(as_list=tuple(isinstance(layer, list | tuple) for layer in layers))
        return ImageFeatures(list(zip(*rows, strict=True)), layout)
    if "cross_attention_states" in parameters:
        accepted = inspect.signature(inner.vision_model.forward).parameters
        states = inner.vision_model(**{n: v for n, v in moved.inputs.items() if n in accepted}).last_hidden_state
        states = inner.multi_modal_projector(states)  # (batch, images, tiles, tokens, dim)
        layout = FeatureLayout(cross_attention_tokens=states.shape[-2])
        return ImageFeatures([(row.flatten(0, -2).cpu(),) for row in states], layout)
    return None


def _flatten(features: Any) -> Tensor:
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in features])


def with_features(embedder: Embedder, batch: ModelInputs, features: ImageFeatures, rows: Sequence[int]) -> ModelInputs:
    """Move a batch to the model's device with features in place of pixels; `rows` are its rows in `features`."""
    moved = batch.to(embedder.device)
    inputs: dict[str, Any] = {name: value for name, value in moved.inputs.items() if not name.startswith("pixel_")}
    layers = [
        torch.cat([features.rows[row][layer] for row in rows]).to(embedder.device)
        for layer in range(len(features.rows[0]))
    ]
    if (tokens := features.layout.cross_attention_tokens) is not None:
        for name in ("aspect_ratio_ids", "aspect_ratio_mask"):
            inputs.pop(name, None)
        inputs["cross_attention_states"] = layers[0].reshape(-1, tokens, layers[0].shape[-1])
    else:
        inputs["mm_encoder_outputs"] = {"image": _encoder_output(layers, features.layout.as_list)}
    return replace(moved, inputs=inputs)


def _encoder_output(layers: list[Tensor], as_list: Sequence[bool]) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    shaped = [[layer] if listed else layer[None] for layer, listed in zip(layers, as_list, strict=True)]
    output = BaseModelOutputWithPooling(pooler_output=cast(Any, shaped[0]))
    if len(shaped) > 1:
        output.deepstack_features = shaped[1:]
    return output
