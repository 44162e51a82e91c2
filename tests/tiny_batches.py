"""Tiny random LVLMs of families whose pixels or features come in another form than LLaVA's, with a batch for each."""

from types import SimpleNamespace

import torch
import transformers as t

from vladva_kit.embedder.prompts import IGNORE_INDEX, ModelInputs
from vladva_kit.embedder.soft_prompt import Temperature

IMAGE, HIDDEN = 150, 64
FAMILIES = ("qwen2_vl", "qwen3_vl", "idefics3", "internvl", "gemma3", "llava_onevision", "mllama")
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 2, "patch_size": 14, "vision_use_head": False}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN = {"image_token_id": IMAGE, "video_token_id": 151, "vision_start_token_id": 152, "vision_end_token_id": 153}


def _llm(model_type: str, **more) -> dict:
    return {
        "model_type": model_type, "vocab_size": 200, "hidden_size": HIDDEN, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.15, **more,
    }  # fmt: skip


def _model(family: str):
    if family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "patch_size": 14, "mlp_ratio": 2}
        return t.Qwen2VLForConditionalGeneration(
            t.Qwen2VLConfig(vision_config=vision, text_config=_llm("qwen2_vl_text", rope_parameters=ROPE), **QWEN)
        )
    if family == "qwen3_vl":
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": HIDDEN, "num_heads": 2,
                  "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}  # fmt: skip
        llm = _llm("qwen3_vl_text", head_dim=16, rope_parameters=ROPE | {"mrope_interleaved": True})
        return t.Qwen3VLForConditionalGeneration(t.Qwen3VLConfig(vision_config=vision, text_config=llm, **QWEN))
    if family == "idefics3":
        vision = VISION | {"image_size": 56, "patch_size": 14}
        return t.Idefics3ForConditionalGeneration(
            t.Idefics3Config(vision_config=vision, text_config=_llm("llama"), image_token_id=IMAGE, scale_factor=2)
        )
    if family == "internvl":
        vision = VISION | {"image_size": [56, 56], "patch_size": [14, 14]}
        return t.InternVLForConditionalGeneration(
            t.InternVLConfig(vision_config=vision, text_config=_llm("qwen2"), image_token_id=IMAGE, image_seq_length=4)
        )
    if family == "gemma3":
        llm = _llm("gemma3_text", head_dim=16, sliding_window=16, query_pre_attn_scalar=16,
                   layer_types=["sliding_attention", "full_attention"])  # fmt: skip
        return t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(
                vision_config=SIGLIP | {"image_size": 56},
                text_config=llm,
                mm_tokens_per_image=4,
                image_token_index=IMAGE,
                boi_token_index=152,
                eoi_token_index=153,
            )  # fmt: skip
        )
    if family == "llava_onevision":
        grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
        return t.LlavaOnevisionForConditionalGeneration(
            t.LlavaOnevisionConfig(
                vision_config=SIGLIP | {"image_size": 28},
                text_config=_llm("qwen2"),
                image_token_index=IMAGE,
                video_token_index=151,
                image_grid_pinpoints=grid,
            )  # fmt: skip
        )
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
              "attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_output_dim": 64, "max_num_tiles": 4,
              "intermediate_layers_indices": [0],
              "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1], [2, 2]]}  # fmt: skip
    llm = _llm("mllama_text_model", num_hidden_layers=3, cross_attention_layers=[1],
               rope_parameters={"rope_type": "default", "rope_theta": 10000.0})  # fmt: skip
    return t.MllamaForConditionalGeneration(
        t.MllamaConfig(vision_config=vision, text_config=llm, image_token_index=200)
    )


def tiny_family(family: str):
    """An embedder of the family as the step needs one: the LLM's query projections learn, all else is frozen."""
    torch.manual_seed(0)
    model = _model(family).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() >= 2 and not weight.any():
            weight.normal_(0, 0.1)  # a projector of zeros would hide the picture
        if "cross_attn_attn_gate" in name or "cross_attn_mlp_gate" in name:
            weight.fill_(0.5)  # the same, for mllama
    for name, weight in model.get_decoder().named_parameters():
        weight.requires_grad_("q_proj" in name)
    model.temperature = Temperature(0.07)
    return SimpleNamespace(
        lvlm=SimpleNamespace(model=model),
        device=torch.device("cpu"),
        logits=model.lm_head,
        hidden_states=lambda sequences: model.model(**sequences.inputs, use_cache=False).last_hidden_state,
    )


def _pictures(family: str, n: int) -> list[dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=rng)

    made = []
    for i in range(n):
        if family.startswith("qwen"):
            h, w = [(4, 4), (4, 6), (2, 4)][i % 3]
            made.append({"pixel_values": noise(h * w, 3 * 2 * 14 * 14), "image_grid_thw": torch.tensor([[1, h, w]])})
        elif family == "internvl":
            made.append({"pixel_values": noise(1 + i % 3, 3, 56, 56)})  # tiles
        elif family == "gemma3":
            made.append({"pixel_values": noise(1, 3, 56, 56)})
        elif family == "idefics3":
            mask = torch.ones(1, 1, 56, 56, dtype=torch.bool)
            made.append({"pixel_values": noise(1, 1, 3, 56, 56), "pixel_attention_mask": mask})
        elif family == "llava_onevision":
            h, w = [(28, 28), (28, 56), (56, 28)][i % 3]
            tiles, pixels = 1 + (h // 28) * (w // 28), torch.zeros(1, 3, 3, 28, 28)
            pixels[:, :tiles] = noise(1, tiles, 3, 28, 28)
            made.append({"pixel_values": pixels, "image_sizes": torch.tensor([[h, w]])})
        else:
            tiles = 1 + i % 2
            mask = (torch.arange(4) < tiles).long()[None, None]
            made.append({"pixel_values": noise(1, 1, 4, 3, 28, 28), "aspect_ratio_mask": mask,
                         "aspect_ratio_ids": torch.tensor([[tiles]])})  # fmt: skip
    return made


def _image_ids(embedder, family: str, picture: dict[str, torch.Tensor]) -> list[int]:
    if family == "mllama":
        return [200]
    with torch.no_grad():
        features = embedder.lvlm.model.model.get_image_features(**picture).pooler_output
    n = sum(part.reshape(-1, part.shape[-1]).shape[0] for part in features)
    wrapped = family.startswith("qwen") or family == "gemma3"
    return [*([152] if wrapped else []), *[IMAGE] * n, *([153] if wrapped else [])]


def family_batch(embedder, family: str, n: int = 4) -> SimpleNamespace:
    """n pictures with long captions of different lengths, and n short captions."""
    pictures = _pictures(family, n)
    rows = [[1, *_image_ids(embedder, family, picture), 5, 6, 7] for picture in pictures]
    summary = [len(row) - 1 for row in rows]
    rows = [[*row, *range(20 + i, 23 + 2 * i)] for i, row in enumerate(rows)]
    images = _padded(rows)
    labels = images.inputs["input_ids"].clone()
    for row, last in enumerate(summary):
        labels[row, : last + 1] = IGNORE_INDEX
    labels[images.inputs["attention_mask"] == 0] = IGNORE_INDEX
    ids, inputs = images.inputs["input_ids"], images.inputs
    inputs |= {name: torch.cat([picture[name] for picture in pictures]) for name in pictures[0]}
    if family.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    if family == "gemma3":
        inputs["token_type_ids"] = (ids == IMAGE).long()
    if family == "mllama":
        cross = torch.zeros(n, ids.shape[1], 1, 4, dtype=torch.long)
        for row in range(n):
            cross[row, 1:, 0, : 1 + row % 2] = 1
        inputs["cross_attention_mask"] = cross
    texts = _padded([[1, *range(30 + 3 * i, 33 + 4 * i), 8, 9] for i in range(n)])
    return SimpleNamespace(
        images=ModelInputs(inputs, torch.tensor(summary), labels), texts=texts, negatives=None, features=None,
        paired=torch.arange(n), keys=torch.arange(n), negative_keys=None,
    )  # fmt: skip


def _padded(rows: list[list[int]]) -> ModelInputs:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = torch.tensor(values)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ModelInputs({"input_ids": ids, "attention_mask": mask}, lengths - 1)
