"""Attaching what learns: soft prompts, LoRA and a temperature, in one peft adapter around a frozen LVLM."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vladva_kit.embedder.prompts import IMAGE_PROMPT, TEXT_PROMPT, Prompt, image_prompt, text_prompt, with_rows
from vladva_kit.embedder.soft_prompt import Temperature, install_soft_prompt, llm_linear_pattern, remove_soft_prompt
from vladva_kit.models.device import rank
from vladva_kit.models.files import atomic_dir
from vladva_kit.models.hub import ADAPTER_FILES, download, is_hub_id
from vladva_kit.models.load import LVLM, load_lvlm

RECORD = "vladva.json"


class BadAdapter(ValueError):
    """An adapter's folder lacks something, or holds what the model has no place for."""


def attach_adapter(
    lvlm: LVLM,
    soft_prompt: bool,
    lora: bool | Mapping[str, Any],
    temperature: float,
    prompts: tuple[str, str] = (IMAGE_PROMPT, TEXT_PROMPT),
    seed: int = 0,
) -> dict[str, Any]:
    """Puts the adapter in place and returns its record: all that is needed, beside the weights, to put it back.

    Raises ValueError when the LVLM carries an adapter already, or when nothing would be trained.
    """
    from peft import LoraConfig, get_peft_model

    if lvlm.adapter is not None:
        raise ValueError(f"{lvlm.name} carries an adapter already: call load_lvlm again for another one")
    if not soft_prompt and lora is False:
        raise ValueError("soft_prompt=False and lora=False: nothing would be trained; use Embedder(lvlm) as a baseline")
    settings = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, **(lora if isinstance(lora, Mapping) else {})}
    model, saved = lvlm.model, ["temperature"]
    if "target_modules" not in settings:
        settings["target_modules"] = llm_linear_pattern(model)
    if lora is False:  # peft wants a target: one small layer, kept at zero
        settings |= {"r": 1, "target_modules": settings["target_modules"].replace(r"\d+", "0")}
    _check_targets(lvlm, settings["target_modules"])
    if soft_prompt:
        saved.append("soft_prompt")
        _check_ids(lvlm)
        install_soft_prompt(model, initial_soft_prompt(lvlm, prompts))
    model.temperature = Temperature(temperature).to(model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # LoRA's random half; the same seed gives the same adapter
        lvlm.adapter = get_peft_model(model, LoraConfig(modules_to_save=saved, **settings))
    lvlm.adapter.peft_config["default"].base_model_name_or_path = lvlm.name  # not a folder of this machine
    if lora is False:
        for name, parameter in lvlm.adapter.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(False)
    return {
        "base": lvlm.name,
        "soft_prompt": soft_prompt,
        "lora": lora and {**settings, "target_modules": _plain(settings["target_modules"])},
        "temperature": temperature,
        "prompts": list(prompts),
    }


def _check_ids(lvlm: LVLM) -> None:
    """The soft prompt's ids are those above the embedding: none of them may be a token's."""
    tokens, rows = len(lvlm.processor.tokenizer), lvlm.model.get_input_embeddings().num_embeddings
    if tokens > rows:
        raise ValueError(
            f"the tokenizer of {lvlm.name} has {tokens} tokens, but its embedding only {rows} rows: tokens would be "
            "taken for the soft prompt's; use the tokenizer that belongs to the model, or soft_prompt=False"
        )


def _plain(targets: str | Sequence[str]) -> str | list[str]:
    """Targets as JSON can hold them; a set becomes a list."""
    return targets if isinstance(targets, str) else sorted(targets)


def _check_targets(lvlm: LVLM, targets: str | Sequence[str]) -> None:
    """Stops before anything is put into the model when LoRA's targets match no layer of it."""
    names = [name for name, module in lvlm.model.named_modules() if isinstance(module, torch.nn.Linear)]
    if isinstance(targets, str):
        matched = any(re.fullmatch(targets, name) for name in names)
    else:
        matched = any(name == target or name.endswith(f".{target}") for name in names for target in targets)
    if not matched and targets != "all-linear":
        raise ValueError(
            f"target_modules={targets} match no linear layer of {lvlm.name}: LoRA would train nothing; "
            f"its layers have names like '{names[-1]}'"
        )


def lora_layers(lvlm: LVLM) -> dict[str, list[str]]:
    """The layers that LoRA is on, by the part of the model that they are in.

    lora_layers(lvlm)    # {"model.language_model": ["layers.0.self_attn.q_proj", …]}
    """
    decoder = next(name for name, module in lvlm.model.named_modules() if module is lvlm.model.get_decoder())
    found: dict[str, list[str]] = {}
    for name in lvlm.adapter.targeted_module_names:
        part = decoder if name.startswith(f"{decoder}.") else ".".join(name.split(".")[:2])
        found.setdefault(part, []).append(name.removeprefix(f"{part}."))
    return found


def count_trainable(lvlm: LVLM) -> dict[str, int]:
    """How many weights learn, by kind.

    count_trainable(lvlm)    # {"soft prompt": 5632, "LoRA": 372736, "temperature": 1}
    """
    counts = {"soft prompt": 0, "LoRA": 0, "temperature": 0}
    for name, parameter in lvlm.model.named_parameters():
        if parameter.requires_grad:
            kind = "LoRA" if "lora_" in name else "soft prompt" if "soft_prompt" in name else "temperature"
            counts[kind] += parameter.numel()
    return counts


def trainable_summary(lvlm: LVLM, record: Mapping[str, Any]) -> str:
    """What was attached, in a line: which layers LoRA's targets matched, and how many weights of each kind learn.

    trainable_summary(lvlm, embedder.record)
    # "emoji-llava: LoRA on 28 layers of model.language_model (down_proj, …); soft prompt 5,632, … weights learn"
    """
    parts = []
    for part, names in lora_layers(lvlm).items() if record["lora"] else ():
        kinds = sorted({name.rpartition(".")[2] for name in names})
        parts.append(f"LoRA on {len(names)} layers of {part} ({', '.join(kinds)})")
    counts = ", ".join(f"{kind} {count:,}" for kind, count in count_trainable(lvlm).items() if count)
    return f"{lvlm.name}: {'; '.join([*parts, counts])} weights learn"


def hand_written_prompts(
    lvlm: LVLM, image_words: str = IMAGE_PROMPT, text_words: str = TEXT_PROMPT
) -> tuple[Prompt, Prompt]:
    """The hand-written prompts of both towers, as the LVLM's family writes them."""
    image = image_prompt(lvlm.processor, image_words, lvlm.family)
    return image, text_prompt(lvlm.processor, text_words, lvlm.family)


def initial_soft_prompt(lvlm: LVLM, prompts: tuple[str, str]) -> Tensor:
    """(k, hidden) the hand-written prompts' embeddings as the LLM reads them, the image's rows first."""
    image, text = hand_written_prompts(lvlm, *prompts)
    embedding = lvlm.model.get_input_embeddings()
    with torch.no_grad():
        return embedding(torch.tensor([*image.ids, *text.ids], device=embedding.weight.device))


def soft_prompts(lvlm: LVLM, prompts: tuple[str, str]) -> tuple[Prompt, Prompt]:
    """The image's and the text's prompt with the soft rows' ids in place of the words'."""
    image, text = hand_written_prompts(lvlm, *prompts)
    first = lvlm.model.get_input_embeddings().num_embeddings
    return with_rows(image, first), with_rows(text, first + len(image.ids))


def detach_adapter(lvlm: LVLM) -> None:
    """Takes the adapter out again; the LVLM is as it was loaded, and another adapter can be attached."""
    embedding = lvlm.model.get_input_embeddings()
    lvlm.adapter.unload()
    lvlm.adapter = None
    del lvlm.model.temperature
    if hasattr(embedding, "soft_prompt"):
        remove_soft_prompt(lvlm.model)


def adapter_state(lvlm: LVLM) -> dict[str, Tensor]:
    """The adapter's tensors by peft's names, whole: where FSDP2 has sharded them, every rank must ask."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(lvlm.adapter, state_dict=_whole_weights(lvlm), save_embedding_layers=False)


def _whole_weights(lvlm: LVLM) -> dict[str, Tensor]:
    """What was attached, by the names of the model's own state_dict, put together where ranks hold a part each."""
    state = lvlm.adapter.state_dict()
    own = {name: value for name, value in state.items() if "lora_" in name or ".modules_to_save." in name}
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in own.items()}


def save_adapter(lvlm: LVLM, record: dict[str, Any], folder: str | os.PathLike) -> Path:
    """Writes adapter_model.safetensors, adapter_config.json and vladva.json: the whole folder or nothing.

    Of several ranks the first one writes; where FSDP2 has sharded the weights, every rank must come with its part.
    """
    folder, state = Path(folder), _whole_weights(lvlm)
    if rank() != 0:
        return folder
    with atomic_dir(folder) as beside:
        lvlm.adapter.save_pretrained(beside, save_embedding_layers=False, state_dict=state)
        (beside / "README.md").unlink(missing_ok=True)  # peft's empty model card
        (beside / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a saved adapter. Raises BadAdapter when the folder holds none."""
    missing = [name for name in (RECORD, "adapter_model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise BadAdapter(f"{folder} holds no {' and no '.join(missing)}: give the folder that save_pretrained wrote")
    return json.loads((folder / RECORD).read_text())


def load_adapter(folder: str | os.PathLike, lvlm: LVLM | None = None, **load: Any) -> tuple[LVLM, dict[str, Any]]:
    """Puts a saved adapter back on its base, or on the LVLM given.

    Raises BadAdapter on a missing or an unexpected key, or on a tensor of another shape; nothing is loaded by halves.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    folder = local_folder(folder)
    record = read_record(folder)
    lvlm = lvlm or load_lvlm(record["base"], **load)
    state = load_file(folder / "adapter_model.safetensors")
    attach_adapter(lvlm, record["soft_prompt"], record["lora"], record["temperature"], tuple(record["prompts"]))
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_state(lvlm).items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        detach_adapter(lvlm)
        raise BadAdapter(
            f"{folder} does not fit {lvlm.name}: {len(wrong)} tensors are missing, unexpected or of another shape, "
            f"first '{wrong[0]}' (saved {found.get(wrong[0])}, wanted {expected.get(wrong[0])})"
        )
    set_peft_model_state_dict(lvlm.adapter, state)
    return lvlm, record


def local_folder(name: str | os.PathLike) -> Path:
    """The adapter's folder: as given, shipped ("emoji-llava-vladva"), or download from the hub by its id."""
    from vladva_kit.models.load import SHIPPED

    path = Path(name)
    if path.is_dir():
        return path
    if str(name) == "emoji-llava-vladva":
        return SHIPPED / str(name)
    if is_hub_id(str(name)):
        return download(str(name), ADAPTER_FILES)
    raise BadAdapter(f"'{name}' is neither a folder, nor the shipped emoji-llava-vladva, nor a hub id")
