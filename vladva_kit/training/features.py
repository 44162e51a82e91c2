"""What the frozen vision tower and projector make of pictures: run once, handed to the LLM as often as it is run.

transformers takes such features as `mm_encoder_outputs`, mllama as `cross_attention_states`. They are kept a picture at
a time and on the CPU, so that a large batch's features do not lie beside the weights on a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vladva_kit.embedder.prompts import ModelInputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vladva_kit.embedder.embedder import Embedder


@dataclass(frozen=True)
class ImageFeatures:
    """Features of pictures, on the CPU. `rows`: for each picture its layers, (tokens, dim) each: the LLM's input first,
    then what some families add to deeper layers. `form`: how the family wants each, "list" or "tensor"."""

    rows: list[tuple[Tensor, ...]]
    form: str

    def nbytes(self) -> int:
        """Bytes that the features take."""
        return sum(layer.numel() * layer.element_size() for row in self.rows for layer in row)


def vision_encoder_is_frozen(model: PreTrainedModel) -> bool:
    """Whether nothing that a picture passes before the LLM learns, so that its features can be kept."""
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    behind = (f"{decoder}.", "lm_head.", "temperature.")
    return all(name.startswith(behind) for name, parameter in model.named_parameters() if parameter.requires_grad)


def row_counts(sequences: ModelInputs, image_token: int | None) -> list[int] | None:
    """How many leading entries of a flat pixel array each row owns, or None where pixels come a row at a time.

    Qwen's processors (patches) and InternVL's (tiles) put all pictures' pixels in one array without a batch axis; each
    row owns as large a share of it as it has of the image tokens.
    """
    pixels, ids = sequences.inputs.get("pixel_values"), sequences.inputs["input_ids"]
    if pixels is None or len(pixels) == len(ids):
        return None
    tokens = (ids == image_token).sum(1)
    return (tokens * len(pixels) // tokens.sum()).tolist()


def take_rows(sequences: ModelInputs, rows: Sequence[int], image_token: int | None = None) -> ModelInputs:
    """Some rows of a batch, without the padding that only the others needed: `take_rows(sequences, [0, 3])`."""
    index = torch.as_tensor(rows, dtype=torch.long)
    ids = sequences.inputs["input_ids"]
    length = int(sequences.inputs["attention_mask"][index].sum(1).max())
    counts = row_counts(sequences, image_token)
    inputs = {}
    for name, value in sequences.inputs.items():
        if counts is not None and name == "pixel_values":
            parts = value.split(counts)
            inputs[name] = torch.cat([parts[row] for row in rows])
        else:
            taken = value[index]
            inputs[name] = taken[:, :length] if value.shape[:2] == ids.shape else taken
    labels = None if sequences.labels is None else sequences.labels[index, :length]
    return ModelInputs(inputs, sequences.summary[index], labels)


@torch.no_grad()
def encode_image_features(embedder: Embedder, sequences: ModelInputs) -> ImageFeatures | None:
    """The features of a batch's pictures; None for a family that has no way to take them back.

    features = encode_image_features(embedder, sequences)
    embedder.hidden_states(with_features(embedder, sequences, features, range(4)))
    """
    inner, moved = embedder.lvlm.model.model, sequences.to(embedder.device)
    names = inspect.signature(inner.forward).parameters
    if "mm_encoder_outputs" in names:
        wanted = inspect.signature(inner.get_image_features).parameters
        output = inner.get_image_features(
            **{name: value for name, value in moved.inputs.items() if name in wanted}, return_dict=True
        )
        tokens = moved.inputs["input_ids"] == embedder.lvlm.model.config.image_token_id
        layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        rows = [_flat(layer).cpu().split(tokens.sum(1).tolist()) for layer in layers]
        form = ",".join("list" if isinstance(layer, list | tuple) else "tensor" for layer in layers)
        return ImageFeatures(list(zip(*rows, strict=True)), form)
    if "cross_attention_states" in names:
        wanted = inspect.signature(inner.vision_model.forward).parameters
        states = inner.vision_model(**{n: v for n, v in moved.inputs.items() if n in wanted}).last_hidden_state
        states = inner.multi_modal_projector(states)  # (batch, pictures, tiles, tokens, dim)
        return ImageFeatures([(row.flatten(0, -2).cpu(),) for row in states], f"cross:{states.shape[-2]}")
    return None


def _flat(features: Any) -> Tensor:
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in features])


def with_features(
    embedder: Embedder, sequences: ModelInputs, features: ImageFeatures, rows: Sequence[int]
) -> ModelInputs:
    """The batch on the model's device, with features in place of pixels; `rows` says which features are its rows'."""
    moved = sequences.to(embedder.device)
    inputs: dict[str, Any] = {name: value for name, value in moved.inputs.items() if not name.startswith("pixel_")}
    layers = [
        torch.cat([features.rows[row][layer] for row in rows]).to(embedder.device)
        for layer in range(len(features.rows[0]))
    ]
    if features.form.startswith("cross:"):
        for name in ("aspect_ratio_ids", "aspect_ratio_mask"):
            inputs.pop(name, None)
        inputs["cross_attention_states"] = layers[0].reshape(-1, int(features.form[6:]), layers[0].shape[-1])
    else:
        inputs["mm_encoder_outputs"] = {"image": _output(layers, features.form.split(","))}
    return replace(moved, inputs=inputs)


def _output(layers: list[Tensor], forms: list[str]) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    formed = [[layer] if form == "list" else layer[None] for layer, form in zip(layers, forms, strict=True)]
    output = BaseModelOutputWithPooling(pooler_output=formed[0])
    if len(formed) > 1:
        output.deepstack_features = formed[1:]
    return output
