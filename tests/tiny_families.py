"""Tiny random LVLMs of each family, saved to folders in the hub's layout; nothing is downloaded.

Each has transformers' own model and image processor, and a tokenizer trained on a few lines.
"""

import json
from pathlib import Path

import torch
import transformers
from tiny import randomize_lora
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, LONG_CAPTIONS, example_images
from vladva_kit.training.collator import Batch, Collator

HIDDEN = 64
LINES = (
    "Summarize the provided image in one word: Summarize the provided text in one word: "
    "user assistant system USER: ASSISTANT: a dog chases a cat; two red balls lie on green grass, left of the house. "
    "What is to the left of the dog? In the background there are trees, water and the sky."
)
QWEN = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
IDEFICS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<|im_start|>"]
IDEFICS += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
SPECIALS = {  # in addition to <pad>, <bos>, <eos>
    "llava": ["<image>"],
    "llava_next": ["<image>"],  # a family without a record
    "llava_onevision": ["<image>", "<video>", "<|im_start|>", "<|im_end|>"],
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
    "idefics3": IDEFICS,
    "smolvlm": IDEFICS,
    "paligemma": ["<image>"],
    "paligemma2": ["<image>"],
    "gemma3": ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"],
    "internvl": ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
    "mllama": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"],
}
NAMED_TOKENS = {  # special tokens that a family's processor reads as attributes of its tokenizer
    "gemma3": {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    },
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
}
IMAGE = {  # what the chat template writes for an image
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "<|vision_start|><|image_pad|><|vision_end|>"),
    "gemma3": "<start_of_image>",
    "internvl": "<IMG_CONTEXT>\n",
    "llava": "<image>\n",
    "llava_next": "<image>\n",
    "llava_onevision": "<image>\n",
    "mllama": "<|image|>",
}
_CHATML = "<|im_start|>{{ m['role'] }}\n@CONTENT@<|im_end|>\n", "<|im_start|>assistant\n"
TURNS = {  # a turn and the start of an answer, shortened from the published templates
    **dict.fromkeys(("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"), _CHATML),
    "llava": ("{{ m['role'].upper() }}: @CONTENT@ ", "ASSISTANT:"),
    "llava_next": ("{{ m['role'].upper() }}: @CONTENT@ ", "ASSISTANT:"),
    "idefics3": ("{{ m['role'].capitalize() }}:@CONTENT@<end_of_utterance>\n", "Assistant:"),
    "smolvlm": ("{{ m['role'].capitalize() }}:@CONTENT@<end_of_utterance>\n", "Assistant:"),
    "gemma3": ("<start_of_turn>{{ m['role'] }}\n@CONTENT@<end_of_turn>\n", "<start_of_turn>model\n"),
    "mllama": (
        "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n@CONTENT@<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}
PROCESSORS = {  # processor class, image processor class, image processor settings, processor settings
    "llava": ("Llava", "CLIP", {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}, {
        "patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}),
    "llava_next": ("LlavaNext", "LlavaNext", {
        "size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28},
        "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}, {
        "patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}),
    "llava_onevision": ("LlavaOnevision", "LlavaOnevision", {
        "size": {"height": 28, "width": 28}, "image_grid_pinpoints": [[28, 28], [28, 56], [56, 28], [56, 56]]}, {
        "num_image_tokens": 4, "vision_feature_select_strategy": "full"}),
    "qwen2_vl": ("Qwen2VL", "Qwen2VL", {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 8}, {}),
    "qwen2_5_vl": ("Qwen2_5_VL", "Qwen2VL", {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 8}, {}),
    "qwen3_vl": ("Qwen3VL", "Qwen2VL", {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 8}, {}),
    "idefics3": ("Idefics3", "Idefics3", {
        "size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}, {"image_seq_len": 4}),
    "smolvlm": ("SmolVLM", "SmolVLM", {
        "size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}, {"image_seq_len": 4}),
    "paligemma": ("PaliGemma", "Siglip", {"size": {"height": 28, "width": 28}, "image_seq_length": 4}, {}),
    "paligemma2": ("PaliGemma", "Siglip", {"size": {"height": 28, "width": 28}, "image_seq_length": 4}, {}),
    "gemma3": ("Gemma3", "Gemma3", {"size": {"height": 56, "width": 56}}, {"image_seq_length": 4}),
    "internvl": ("InternVL", "GotOcr2", {
        "size": {"height": 56, "width": 56}, "crop_to_patches": True, "max_patches": 4}, {"image_seq_length": 4}),
    "mllama": ("Mllama", "Mllama", {"size": {"height": 28, "width": 28}, "max_image_tiles": 4}, {}),
}  # fmt: skip
TIES = [family for family in PROCESSORS if family != "mllama"]  # whose embedding has more rows than its head
VIDEOS = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "internvl")


def build(
    family: str,
    folder: Path,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    lines: str = LINES,
    tokens: int = 300,
) -> Path:
    """Save a tiny model of the family with all files that from_pretrained reads; `lines` train its tokenizer."""
    tokenizer = _tokenizer(family, lines, tokens)
    model = _model(family, tokenizer, tied, seed).to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    prefix, image_prefix, settings, processor_settings = PROCESSORS[family]
    processor_class = f"{prefix}Processor"
    getattr(transformers, f"{image_prefix}ImageProcessor")(**settings).save_pretrained(folder)
    _merge(folder / "preprocessor_config.json", {"processor_class": processor_class, **_image_seq_length(settings)})
    _merge(folder / "processor_config.json", {"processor_class": processor_class, **processor_settings})
    if family in VIDEOS:
        kind = {"qwen2_5_vl": "Qwen2VL"}.get(family, prefix)
        _merge(folder / "video_preprocessor_config.json", {"video_processor_type": f"{kind}VideoProcessor"})
    if family in TURNS:
        (folder / "chat_template.jinja").write_text(_template(family))
    return folder


def is_tied(model: torch.nn.Module) -> bool:
    """Return whether the LM head and the token embedding share their tensor."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def embedder_of(family: str, folder: Path) -> vk.Embedder:
    """Build and load a tiny model, and attach an adapter with random LoRA weights: all its gradients are nonzero."""
    embedder = vk.attach(vk.load_lvlm(str(build(family, folder)), dtype=torch.float32), quiet=True)
    randomize_lora(embedder)
    return embedder


def batch_of(embedder: vk.Embedder, n: int = 3) -> Batch:
    """Collate up to four pairs; the images differ in shape, the captions in length."""
    images = example_images()
    images.append(images[2].rotate(90, expand=True))
    captions, long_captions = (*CAPTIONS, "a blue table"), (*LONG_CAPTIONS, "A blue table stands on green grass.")
    pairs = [vk.Pair(*fields) for fields in zip(images, captions, long_captions, strict=True)]
    return Collator(embedder)(pairs[:n])["batch"]


def _image_seq_length(settings: dict) -> dict:
    return {"image_seq_length": settings["image_seq_length"]} if "image_seq_length" in settings else {}


def _merge(path: Path, values: dict) -> None:
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **values}))


def _template(family: str) -> str:
    turn, answer = TURNS[family]
    image = IMAGE.get(family, "<image>")
    content = "{% for c in m['content'] %}{% if c['type'] == 'image' %}" + image + "{% endif %}{% endfor %}"
    content += "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
    begin = "{{ bos_token }}" if family in ("gemma3", "mllama") else ""
    turns = "{% for m in messages %}" + turn.replace("@CONTENT@", content) + "{% endfor %}"
    return begin + turns + "{% if add_generation_prompt %}" + answer + "{% endif %}"


def _tokenizer(family: str, lines: str, tokens: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, or, as Llama's and Gemma's, one with a space symbol; Llama's prepends it."""
    prepend_scheme = {
        "llava": "first",
        "llava_next": "first",
        "paligemma": "never",
        "paligemma2": "never",
        "gemma3": "never",
    }.get(family)
    basic = ["<pad>", "<bos>", "<eos>"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=prepend_scheme is not None))
    if prepend_scheme is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet = sorted({*"▁", *(chr(number) for number in range(33, 127))})
        basic += [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(basic) + tokens, special_tokens=basic, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([lines] * 2, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=NAMED_TOKENS.get(family, {}),
    )
    fast.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS[family]], True)
    if family.startswith("paligemma"):
        fast.add_tokens(EXTRA_TOKENS)  # locations and segments, which its processor requires
    return fast


def _model(family: str, tokenizer: PreTrainedTokenizerFast, tied: bool, seed: int):
    torch.manual_seed(seed)
    config = _config(family, tokenizer, tied)
    kind = {"paligemma2": "PaliGemma"}.get(family, PROCESSORS[family][0])
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and not parameter.any():  # a projector of zeros would hide the image
                parameter.normal_(0, 0.1)
            if "gate" in name and parameter.numel() == 1:  # and so would mllama's closed gates
                parameter.fill_(0.5)
            if "embed_tokens" in name:  # a zero row for padding would hide that padding is attended to
                parameter[tokenizer.pad_token_id].normal_(0, 0.1)
    settings = model.generation_config
    settings.eos_token_id, settings.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    settings.bos_token_id = tokenizer.bos_token_id
    return model


def _config(family: str, tokenizer: PreTrainedTokenizerFast, tied: bool):
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS[family]}
    rows = ids["<|image|>"] if family == "mllama" else len(tokenizer) + 20  # more rows than tokens, as in Qwen
    text = {
        "vocab_size": rows, "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "initializer_range": 0.15, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": tied,
    }  # fmt: skip
    config_class = getattr(transformers, f"{PROCESSORS[family][0]}Config")
    return config_class(
        vision_config=_vision(family),
        text_config={**text, **_llm(family)},
        tie_word_embeddings=tied,
        **_token_ids(family, ids),
    )


def _vision(family: str) -> dict:
    encoder = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = {"model_type": "clip_vision_model", **encoder, "image_size": 28, "patch_size": 14, "projection_dim": 32}
    siglip = {**clip, "model_type": "siglip_vision_model", "vision_use_head": False}
    qwen = {"depth": 2, "num_heads": 2, "patch_size": 14, "out_hidden_size": HIDDEN, "intermediate_size": 64}
    return {
        "llava": clip,
        "llava_next": clip,
        "llava_onevision": siglip,
        "qwen2_vl": {"depth": 2, "num_heads": 2, "patch_size": 14, "embed_dim": 32, "hidden_size": HIDDEN,
                     "mlp_ratio": 2},
        "qwen2_5_vl": {**qwen, "hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [1]},
        "qwen3_vl": {**qwen, "hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        "idefics3": {**encoder, "image_size": 56, "patch_size": 14},
        "smolvlm": {**encoder, "image_size": 56, "patch_size": 14},
        "paligemma": siglip,
        "paligemma2": siglip,
        "gemma3": {**siglip, "image_size": 56},
        "internvl": {**encoder, "image_size": [56, 56], "patch_size": [14, 14]},
        "mllama": {
            **encoder, "num_global_layers": 1, "attention_heads": 2, "image_size": 28, "patch_size": 14,
            "vision_output_dim": 64, "max_num_tiles": 4, "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
    }[family]  # fmt: skip


def _llm(family: str) -> dict:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    gemma = {"head_dim": 16, "query_pre_attn_scalar": 16}
    return {
        "llava": {"model_type": "llama"},
        "llava_next": {"model_type": "llama"},
        "llava_onevision": {"model_type": "qwen2"},
        "qwen2_vl": {"model_type": "qwen2_vl_text", "rope_parameters": rope},
        "qwen2_5_vl": {"model_type": "qwen2_5_vl_text", "rope_parameters": rope},
        "qwen3_vl": {"model_type": "qwen3_vl_text", "head_dim": 16,
                     "rope_parameters": {**rope, "mrope_interleaved": True}},
        "idefics3": {"model_type": "llama"},
        "smolvlm": {"model_type": "llama"},
        "paligemma": {"model_type": "gemma", "head_dim": 16, "num_key_value_heads": 1},
        "paligemma2": {"model_type": "gemma2", **gemma, "sliding_window": 8},
        "gemma3": {"model_type": "gemma3_text", **gemma, "sliding_window": 16,
                   "layer_types": ["sliding_attention", "full_attention"]},
        "internvl": {"model_type": "qwen2"},
        "mllama": {"model_type": "mllama_text_model", "num_hidden_layers": 3, "cross_attention_layers": [1],
                   "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    }[family]  # fmt: skip


def _token_ids(family: str, ids: dict[str, int]) -> dict:
    """Return the top level of a family's config: the ids of its special tokens, its grids."""
    if family.startswith("qwen"):
        return {
            "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        }  # fmt: skip
    if family in ("idefics3", "smolvlm"):
        return {"image_token_id": ids["<image>"], "scale_factor": 2, "pad_token_id": 0}
    if family.startswith("paligemma"):
        return {"image_token_index": ids["<image>"], "projection_dim": HIDDEN, "hidden_size": HIDDEN}
    if family == "llava_onevision":
        grid = PROCESSORS[family][2]["image_grid_pinpoints"]
        video = ids["<video>"]
        return {"image_token_index": ids["<image>"], "video_token_index": video, "image_grid_pinpoints": grid}
    if family == "llava_next":
        grid = PROCESSORS[family][2]["image_grid_pinpoints"]
        return {"image_token_index": ids["<image>"], "image_grid_pinpoints": grid, "image_seq_length": 4}
    if family == "gemma3":
        ends = {"boi_token_index": ids["<start_of_image>"], "eoi_token_index": ids["<end_of_image>"]}
        return {"mm_tokens_per_image": 4, "image_token_index": ids["<image_soft_token>"], **ends}
    if family == "internvl":
        return {"image_token_id": ids["<IMG_CONTEXT>"], "image_seq_length": 4}
    if family == "mllama":
        return {"image_token_index": ids["<|image|>"]}
    return {"image_token_index": ids["<image>"], "image_seq_length": 4}
