"""Export an embedder as a folder that sentence-transformers, or transformers alone, can load.

LoRA is merged into the weights, the prompts' embeddings become new tokens at the end of the vocabulary, and the chat
template adds these tokens after an image or a caption. The last token is then the summary token.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import template_around_caption
from vladva_kit.models.files import atomic_dir
from vladva_kit.models.load import LVLM, video_settings

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel, ProcessorMixin


def export(embedder: Embedder, folder: str | os.PathLike, full_size: bool = False) -> Path:
    """Write the image and text encoders to a folder atomically, and return it; the embedder is unchanged.

        export(embedder, "my-model")
        SentenceTransformer("my-model").encode(["a dog", Image.open("dog.jpg")])    # runs no code from the folder

    An Embedder without adapter is exported with its hand-written prompts. The folder cannot generate text: it has no LM
    head. A text longer than a `max_seq_length` that you set loses its beginning, never the prompt. Two inputs are read
    differently than in the kit: special tokens written in a caption act as such, and an image that is not upright 8-bit
    RGB looks as sentence-transformers opens it, for example without its transparency. Open images with `open_image`,
    or load the folder with `load_baseline("sentence_transformers:my-model")`, and they look the same.
    full_size: export an LVLM that was loaded with max_pixels all the same; the folder sees images at their full size.
    Raises ValueError for 4-bit or int8 weights, for an LVLM loaded with max_pixels, for LoRA that cannot be merged
    (lora_bias on a layer without bias), and for PaliGemma: sentence-transformers cannot encode text alone with it.
    """
    lvlm = embedder.lvlm
    if lvlm.family.prompt_suffix:
        raise ValueError(
            f"{lvlm.name} is a {lvlm.family.model_type}: its processor appends to the prompt, and with it "
            "sentence-transformers reads no caption without an image; use save_pretrained and the kit"
        )
    if (
        lvlm.family.max_pixels is not None and not full_size
    ):  # even a family's own limit resizes a large image to other pixels
        raise ValueError(
            f"{lvlm.name} was loaded with max_pixels={lvlm.family.max_pixels}, by which the kit shrinks images and an "
            "exported folder cannot: load it without max_pixels, or pass full_size=True if your images are smaller"
        )
    if getattr(lvlm.model, "is_quantized", False):
        raise ValueError(
            f"{lvlm.name} has quantized weights, into which LoRA cannot be merged: load it "
            "without four_bit or quantize_int8"
        )
    processor, ids = _processor_with_prompts(embedder)
    model = _merged_model(embedder, ids)
    width = embedder.lvlm.embedding.embedding_dim
    folder = Path(folder)
    with atomic_dir(folder) as tmp_dir:
        model.save_pretrained(tmp_dir)
        processor.save_pretrained(tmp_dir)
        for name, value in {**_sentence_transformers_files(width), **video_settings(lvlm)}.items():
            (tmp_dir / name).parent.mkdir(exist_ok=True)
            (tmp_dir / name).write_text(json.dumps(value, indent=2) + "\n")
    return folder


def _processor_with_prompts(embedder: Embedder) -> tuple[ProcessorMixin, list[int]]:
    """Copy the processor, with the prompts as tokens in its template; also return the ids, the image prompt's first."""
    from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

    processor = copy.deepcopy(embedder.lvlm.processor)
    tokenizer = processor.tokenizer
    image_tokens, text_tokens = (
        [f"<|vladva_{kind}_{number}|>" for number in range(len(prompt.ids))]
        for kind, prompt in (("image", embedder.image_prompt), ("text", embedder.text_prompt))
    )
    tokenizer.add_tokens([*image_tokens, *text_tokens], special_tokens=True)
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "left"  # the prompt, with the summary token, is at the end
    tokenizer.init_kwargs["truncation_side"] = "left"  # what save_pretrained writes
    tokenizer.model_max_length = VERY_LARGE_INTEGER  # the kit does not truncate
    text_prefix, _ = template_around_caption(embedder.lvlm.processor, "")
    processor.chat_template = tokenizer.chat_template = _template(
        embedder.image_prompt.prefix, text_prefix, "".join(image_tokens), "".join(text_tokens)
    )
    return processor, tokenizer.convert_tokens_to_ids([*image_tokens, *text_tokens])


def _template(image_prefix: str, text_prefix: str, image_prompt: str, text_prompt: str) -> str:
    """Write a chat template for a single turn with an image or a caption."""
    image, text = (json.dumps(prefix, ensure_ascii=False) for prefix in (image_prefix, text_prefix))
    return (
        "{%- set content = messages[-1]['content'] -%}"
        "{%- if content is not string and content | selectattr('type', 'equalto', 'image') | list -%}"
        f"{{{{ {image} }}}}{image_prompt}"
        "{%- else -%}"
        f"{{{{ {text} }}}}"
        "{%- if content is string -%}{{ content }}"
        "{%- else -%}{% for part in content %}{{ part['text'] }}{% endfor %}{%- endif -%}"
        f"{text_prompt}"
        "{%- endif -%}"
    )


def _merged_model(embedder: Embedder, ids: list[int]) -> PreTrainedModel:
    """Return the model without LM head, with LoRA merged and the prompts' embeddings at `ids`."""
    from transformers import AutoModel

    lvlm, config = embedder.lvlm, copy.deepcopy(embedder.lvlm.model.config)
    state = _base_state(lvlm, merge_lora=embedder.adapted)
    embedding = lvlm.embedding
    name = next(name for name, weight in state.items() if weight is embedding.weight)
    rows = embedding.weight.new_zeros(max(max(ids) + 1, len(embedding.weight)), embedding.embedding_dim)
    rows[: len(embedding.weight)] = embedding.weight
    prompts = torch.tensor([*embedder.image_prompt.ids, *embedder.text_prompt.ids], device=rows.device)
    with torch.no_grad():
        rows[ids] = embedding(prompts) / getattr(embedding, "embed_scale", 1.0)  # Gemma 3 scales its embeddings
    state[name] = rows
    config.get_text_config().vocab_size += len(rows) - len(embedding.weight)  # mllama's embedding exceeds vocab_size
    with torch.device("meta"):
        model = AutoModel.from_config(config, dtype=rows.dtype)
    # detached, since `assign` would make the embedder's own frozen weights trainable; strict: all keys must match
    model.load_state_dict({key: weight.detach() for key, weight in state.items()}, assign=True)
    return model


def _base_state(lvlm: LVLM, merge_lora: bool) -> dict[str, Tensor]:
    """Return the inner model's tensors by their names without an adapter."""
    from peft.tuners.lora import LoraLayer

    inner, state = lvlm.model.model, {}
    for name, weight in inner.state_dict(keep_vars=True).items():
        if ".lora_" not in name and ".soft_prompt." not in name:
            state[name.replace(".base_layer.", ".")] = weight
    for name, layer in inner.named_modules():
        if merge_lora and isinstance(layer, LoraLayer):
            state |= {f"{name}.{parameter}": weight for parameter, weight in _merged_layer(name, layer).items()}
    return state


def _merged_layer(name: str, layer: LoraLayer) -> dict[str, Tensor]:
    """Return a layer's weight and bias with LoRA merged, which peft does on a copy: DoRA is more than a sum."""
    layer = copy.deepcopy(layer)
    try:
        layer.merge(adapter_names=["default"])
    except RuntimeError as error:  # lora_bias on a layer without bias
        raise ValueError(
            f"LoRA on '{name}' cannot be merged ({error}): attach without lora_bias, or use save_pretrained and the kit"
        ) from error
    return dict(layer.get_base_layer().named_parameters())


def _sentence_transformers_files(width: int) -> dict[str, Any]:
    """Return sentence-transformers' files: take the last token's state and normalize it."""
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    modalities = {"text": forward, "image": forward, "message": {**forward, "format": "structured"}}
    return {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": modalities,
            "module_output_name": "token_embeddings",
            # or sentence-transformers would overwrite the end of a truncated text with what it takes for the prompt
            "processing_kwargs": {"chat_template": {"restore_suffix": False}},
        },
        "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"embedding_dimension": width, "pooling_mode": "lasttoken", "include_prompt": True},
        "2_Normalize/config.json": {},
    }
