"""An embedder as a folder that sentence-transformers loads, and plain transformers too; only the towers go out.

LoRA is added to the weights, each prompt's rows become rows of new tokens behind the vocabulary, and the chat template
writes those tokens behind a picture or a caption. What reads the last token's state then reads the summary token's.
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
from vladva_kit.models.files import atomic_dir
from vladva_kit.models.load import LVLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

_CAPTION = "CAPTIONGOESHERE"
_LIBRARY = "sentence_transformers.models"


def export(embedder: Embedder, folder: str | os.PathLike) -> Path:
    """Writes the towers to a folder, whole or not at all, and returns it; the embedder stays as it is.

        export(embedder, "my-model")
        SentenceTransformer("my-model").encode(["a dog", Image.open("dog.jpg")])    # no code of the folder is run

    A baseline goes out with its hand-written prompts. The folder embeds and does not talk: the LLM's head stays behind.
    Other than in the kit, a special token that is written in a caption acts there.
    Raises ValueError for PaliGemma, of which sentence-transformers reads no caption alone, and for weights in 4 bits.
    """
    lvlm = embedder.lvlm
    if lvlm.family.appended:
        raise ValueError(
            f"{lvlm.name} is a {lvlm.family.model_type}, whose processor writes behind the prompt, and of which "
            "sentence-transformers reads no caption without a picture: save_pretrained keeps it for the kit"
        )
    if getattr(lvlm.model, "is_quantized", False):
        raise ValueError(f"{lvlm.name} was loaded in 4 bits, to which LoRA cannot be added: load it without four_bit")
    processor, ids = _with_prompts(embedder)
    model = _merged(embedder, ids)
    width = model.get_input_embeddings().embedding_dim
    folder = Path(folder)
    with atomic_dir(folder) as beside:
        model.save_pretrained(beside)
        processor.save_pretrained(beside)
        for name, value in {**_module_files(width), **_left_behind(lvlm)}.items():
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_text(json.dumps(value, indent=2) + "\n")
    return folder


def _left_behind(lvlm: LVLM) -> dict[str, Any]:
    """The settings for videos, where the processor was loaded without them: any other reader looks for the file."""
    source = Path(lvlm.model.name_or_path)
    if hasattr(lvlm.processor, "video_processor") or not source.is_dir():
        return {}
    name = "video_preprocessor_config.json"
    if (source / name).is_file():
        return {name: json.loads((source / name).read_text())}
    told = source / "processor_config.json"
    settings = json.loads(told.read_text()).get("video_processor") if told.is_file() else None
    return {name: settings} if settings else {}


def _with_prompts(embedder: Embedder) -> tuple[ProcessorMixin, list[int]]:
    """A copy of the processor whose template writes the prompts as tokens, and those tokens' ids, the image's first."""
    processor = copy.deepcopy(embedder.lvlm.processor)
    tokenizer = processor.tokenizer
    tokens = {
        tower: [f"<|vladva_{tower}_{number}|>" for number in range(len(prompt.ids))]
        for tower, prompt in (("image", embedder.image_prompt), ("text", embedder.text_prompt))
    }
    everything = [token for own in tokens.values() for token in own]
    tokenizer.add_tokens(everything, special_tokens=True)
    tokenizer.padding_side = "right"
    before = embedder.lvlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": _CAPTION}]}], add_generation_prompt=True
    ).partition(_CAPTION)[0]
    template = _template(embedder.image_prompt.before, before, *("".join(own) for own in tokens.values()))
    processor.chat_template = tokenizer.chat_template = template
    return processor, tokenizer.convert_tokens_to_ids(everything)


def _template(before_image: str, before_text: str, image_prompt: str, text_prompt: str) -> str:
    """A chat template of one turn: a picture, or a caption, with what stands around it."""
    image, text = (json.dumps(before, ensure_ascii=False) for before in (before_image, before_text))
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


def _merged(embedder: Embedder, ids: list[int]) -> PreTrainedModel:
    """The inner model, without its head, with LoRA added and the prompts' rows at their tokens' ids."""
    from transformers import AutoModel

    lvlm, config = embedder.lvlm, copy.deepcopy(embedder.lvlm.model.config)
    state = _inner_state(lvlm, learned=embedder.adapted)
    embedding = lvlm.model.get_input_embeddings()
    name = next(name for name, weight in state.items() if weight is embedding.weight)
    rows = embedding.weight.new_zeros(max(max(ids) + 1, len(embedding.weight)), embedding.embedding_dim)
    rows[: len(embedding.weight)] = embedding.weight
    prompts = torch.tensor([*embedder.image_prompt.ids, *embedder.text_prompt.ids], device=rows.device)
    with torch.no_grad():
        rows[ids] = embedding(prompts) / getattr(embedding, "embed_scale", 1.0)  # Gemma 3 scales what it looks up
    state[name] = rows
    config.get_text_config().vocab_size += len(rows) - len(embedding.weight)  # mllama's has rows beyond it already
    with torch.device("meta"):
        model = AutoModel.from_config(config, dtype=rows.dtype)
    # detached, since `assign` would let the embedder's own frozen weights learn; strict: nothing missing or left over
    model.load_state_dict({key: weight.detach() for key, weight in state.items()}, assign=True)
    return model


def _inner_state(lvlm: LVLM, learned: bool) -> dict[str, Tensor]:
    """The inner model's tensors by the names they have without an adapter; `learned`: with LoRA added."""
    inner, state = lvlm.model.model, {}
    for name, weight in inner.state_dict(keep_vars=True).items():
        if ".lora_" in name or ".soft_prompt." in name:
            continue
        layer_name, _, own = name.rpartition(".base_layer.")
        if layer_name and own == "weight" and learned:
            layer = inner.get_submodule(layer_name)
            weight = weight.detach() + layer.get_delta_weight("default").to(weight.dtype)
        state[name.replace(".base_layer.", ".")] = weight
    return state


def _module_files(width: int) -> dict[str, Any]:
    """What sentence-transformers reads beside the model: the last token's state, made unit length."""
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    taken = {"text": forward, "image": forward, "message": {**forward, "format": "structured"}}  # each by the template
    return {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"{_LIBRARY}.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": taken,
            "module_output_name": "token_embeddings",
        },
        "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"embedding_dimension": width, "pooling_mode": "lasttoken", "include_prompt": True},
        "2_Normalize/config.json": {},
    }
