"""Attach, save and load the trainable parts: soft prompts, LoRA and temperature, in one peft adapter."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vladva_kit.embedder.lora import check_targets, lora_settings
from vladva_kit.embedder.prompts import IMAGE_PROMPT, TEXT_PROMPT, Prompt, image_prompt, text_prompt
from vladva_kit.embedder.soft_prompt import Temperature, install_soft_prompt, llm_linear_pattern, remove_soft_prompt
from vladva_kit.models.device import rank
from vladva_kit.models.files import atomic_dir, is_regular, read_object
from vladva_kit.models.hub import ADAPTER_FILES, download, is_hub_id
from vladva_kit.models.load import LVLM, SHIPPED, UnknownModel, load_lvlm, video_settings, warn_of_folder

CONFIG_FILE = "vladva.json"
WEIGHTS_FILE = "adapter_model.safetensors"
SHIPPED_ADAPTER = "emoji-llava-vladva"


class BadAdapter(ValueError):
    """An adapter folder that is incomplete or does not fit the model."""


@dataclass(frozen=True)
class AdapterConfig:
    """What is needed, besides the weights, to attach an adapter again; saved as vladva.json."""

    base: str  # the LVLM's name, without the path of a local folder
    soft_prompt: bool
    lora: dict[str, Any] | None  # settings of peft's LoraConfig, None without LoRA
    temperature: float  # initial value
    prompts: tuple[str, str]  # the words of the image and the text prompt

    def to_json(self) -> str:
        """Return the content of vladva.json."""
        return json.dumps({**asdict(self), "lora": self.lora or False}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> AdapterConfig:
        """Read the content of vladva.json: `AdapterConfig.from_json(config.to_json()) == config`."""
        return cls._of(json.loads(text))

    @classmethod
    def read(cls, path: Path) -> AdapterConfig:
        """Read vladva.json. Raises BadAdapter naming the value that is missing, unknown or of another type."""
        values = read_object(path, BadAdapter)
        names = [field.name for field in fields(cls)]
        if values.keys() != set(names):
            wrong = sorted(values.keys() ^ set(names))
            raise BadAdapter(f"{path}: {', '.join(wrong)} is missing or unknown; it has {', '.join(names)}")
        prompts, lora, temperature = values["prompts"], values["lora"], values["temperature"]
        is_right = {
            "base": isinstance(values["base"], str),
            "soft_prompt": isinstance(values["soft_prompt"], bool),
            "lora": isinstance(lora, dict) or lora is False or lora is None,
            "temperature": isinstance(temperature, int | float) and 0 < temperature < math.inf,
            "prompts": isinstance(prompts, list) and [type(words) for words in prompts] == [str, str],
        }
        for name, right in is_right.items():
            if not right:
                raise BadAdapter(f"{path}: {name} is {values[name]!r}, which save_pretrained never writes: correct it")
        return cls._of(values)

    @classmethod
    def _of(cls, values: dict[str, Any]) -> AdapterConfig:
        return cls(**{**values, "lora": values["lora"] or None, "prompts": tuple(values["prompts"])})


def attach_adapter(lvlm: LVLM, config: AdapterConfig, seed: int = 0) -> None:
    """Attach an untrained adapter; an error leaves the LVLM as it was.

    Raises ValueError if the LVLM has an adapter already, or if nothing would be trained.
    """
    from peft import LoraConfig, get_peft_model

    if lvlm.adapter is not None:
        raise ValueError(f"{lvlm.name} already has an adapter: call load_lvlm again to attach another")
    if not config.soft_prompt and config.lora is None:
        raise ValueError("soft_prompt=False and lora=False: nothing would be trained; use Embedder(lvlm) as a baseline")
    if not 0 < config.temperature < math.inf:
        raise ValueError(f"temperature={config.temperature}: pass a positive number, such as 0.07")
    model, saved, settings = lvlm.model, ["temperature"], config.lora
    if settings is None:  # peft requires a target: one small layer, frozen at zero
        settings = {**lora_settings(model, {"r": 1}), "target_modules": llm_linear_pattern(model).replace(r"\d+", "0")}
    check_targets(lvlm, settings["target_modules"])
    prompts = hand_written_prompts(lvlm, *config.prompts)
    if config.soft_prompt:
        install_soft_prompt(model, _initial_embeddings(lvlm, prompts))
        saved.append("soft_prompt")
    try:
        model.temperature = Temperature(config.temperature).to(model.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # for LoRA's random matrices
            with warnings.catch_warnings():  # peft reads a property that transformers has renamed
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                lvlm.adapter = get_peft_model(model, LoraConfig(modules_to_save=saved, **settings))
        _check_all_is_saved(lvlm)
    except BaseException:
        detach_adapter(lvlm)
        raise
    lvlm.adapter.peft_config["default"].base_model_name_or_path = config.base  # not a local folder
    if config.lora is None:
        for name, parameter in lvlm.peft_model.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(False)


def _check_all_is_saved(lvlm: LVLM) -> None:
    """Raise ValueError if a trainable parameter would not be saved."""
    trainable = [name for name, weight in lvlm.peft_model.named_parameters() if weight.requires_grad]
    if unsaved := [name for name in trainable if not _is_saved(name)]:
        raise ValueError(f"peft made {len(unsaved)} parameters trainable that are not saved, first '{unsaved[0]}'")


def _initial_embeddings(lvlm: LVLM, prompts: tuple[Prompt, Prompt]) -> Tensor:
    """Return the prompts' token embeddings (k, hidden), after checking that the ids above the vocabulary are free."""
    embedding, n_tokens = lvlm.embedding, len(lvlm.processor.tokenizer)
    if n_tokens > embedding.num_embeddings:
        raise ValueError(
            f"the tokenizer of {lvlm.name} has {n_tokens} tokens, but its embedding only {embedding.num_embeddings} "
            "rows: some tokens would be taken for the soft prompt; use the model's own tokenizer, or soft_prompt=False"
        )
    ids = [token_id for prompt in prompts for token_id in prompt.ids]
    with torch.no_grad():
        return embedding(torch.tensor(ids, device=embedding.weight.device))


def count_trainable(lvlm: LVLM) -> dict[str, int]:
    """Count trainable parameters by kind: `{"soft prompt": 4608, "LoRA": 312320, "temperature": 1}` for emoji-llava."""
    counts = {"soft prompt": 0, "LoRA": 0, "temperature": 0}
    for name, parameter in lvlm.model.named_parameters():
        if parameter.requires_grad:
            kind = "LoRA" if "lora_" in name else "soft prompt" if "soft_prompt" in name else "temperature"
            counts[kind] += parameter.numel()
    return counts


def adapter_summary(lvlm: LVLM, config: AdapterConfig) -> str:
    """Describe the adapter in one line: the layers that LoRA's targets matched, and the trainable parameters.

    adapter_summary(lvlm, embedder.config)
    # "emoji-llava: LoRA on 28 layers of model.language_model (…); trainable parameters: soft prompt 4,608, …"
    """
    decoder = next(name for name, module in lvlm.model.named_modules() if module is lvlm.model.get_decoder())
    layers: dict[str, list[str]] = {}
    for name in lvlm.peft_model.targeted_module_names if config.lora else ():
        part = decoder if name.startswith(f"{decoder}.") else ".".join(name.split(".")[:2])
        layers.setdefault(part, []).append(name.rpartition(".")[2])
    counts = ", ".join(f"{kind} {count:,}" for kind, count in count_trainable(lvlm).items() if count)
    parts = [f"LoRA on {len(kinds)} layers of {name} ({', '.join(sorted({*kinds}))})" for name, kinds in layers.items()]
    return f"{lvlm.name}: {'; '.join([*parts, f'trainable parameters: {counts}'])}"


def hand_written_prompts(
    lvlm: LVLM, image_words: str = IMAGE_PROMPT, text_words: str = TEXT_PROMPT
) -> tuple[Prompt, Prompt]:
    """Return the image and the text prompt in the format of the LVLM's family."""
    image = image_prompt(lvlm.processor, image_words, lvlm.family)
    return image, text_prompt(lvlm.processor, text_words, lvlm.family)


def soft_prompts(lvlm: LVLM, image_words: str, text_words: str) -> tuple[Prompt, Prompt]:
    """Return the image and the text prompt with the soft prompt's ids instead of token ids."""
    image, text = hand_written_prompts(lvlm, image_words, text_words)
    start = lvlm.embedding.num_embeddings
    middle = start + len(image.ids)
    end = middle + len(text.ids)
    return replace(image, ids=tuple(range(start, middle))), replace(text, ids=tuple(range(middle, end)))


def detach_adapter(lvlm: LVLM) -> None:
    """Remove the adapter, even one attached only in part, and leave the LVLM as it was loaded."""
    model, lvlm.adapter = lvlm.model, None
    for name in ("temperature", "peft_config"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.get_input_embeddings(), "soft_prompt"):
        remove_soft_prompt(model)
    _unwrap(model)


def _unwrap(module: nn.Module) -> None:
    """Replace peft's wrappers of layers below `module` by the original layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, child in list(module.named_children()):
        if unload := getattr(child, "unload_and_optionally_merge_module", None):
            setattr(module, name, unload(False, False, None))  # a layer that peft unwraps with its own method
        elif isinstance(child, BaseTunerLayer):
            setattr(module, name, child.get_base_layer())
        else:
            _unwrap(child)


def adapter_state(lvlm: LVLM) -> dict[str, Tensor]:
    """Return the adapter's full tensors by peft's names; under FSDP2, call this on every rank."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(lvlm.adapter, state_dict=_full_tensors(lvlm), save_embedding_layers=False)


def adapter_names(lvlm: LVLM) -> list[str]:
    """Return peft's names of the adapter's tensors; under FSDP2, one rank alone may call this."""
    from peft import get_peft_model_state_dict

    return list(get_peft_model_state_dict(lvlm.adapter, state_dict=_tensors(lvlm), save_embedding_layers=False))


def _full_tensors(lvlm: LVLM) -> dict[str, Tensor]:
    """Return the adapter's tensors by the model's names, gathered from all ranks if they are sharded."""
    state = _tensors(lvlm)
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def _tensors(lvlm: LVLM) -> dict[str, Tensor]:
    """Return the adapter's tensors by the model's names, of which each rank holds a shard under FSDP2."""
    return {name: value for name, value in lvlm.peft_model.state_dict().items() if _is_saved(name)}


def _is_saved(name: str) -> bool:
    return "lora_" in name or ".modules_to_save." in name


def save_adapter(
    lvlm: LVLM, config: AdapterConfig, folder: str | os.PathLike, texts: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write adapter_model.safetensors, adapter_config.json, vladva.json, the processor and `texts` atomically.

    texts: further files by name. Only rank 0 writes; under FSDP2 call this on every rank.
    """
    folder, state = Path(folder), _full_tensors(lvlm)
    if rank() != 0:
        return folder
    with atomic_dir(folder) as tmp_dir:
        lvlm.processor.save_pretrained(tmp_dir)
        lvlm.peft_model.save_pretrained(str(tmp_dir), save_embedding_layers=False, state_dict=state)
        (tmp_dir / "README.md").unlink(missing_ok=True)  # peft's empty model card
        videos = {name: json.dumps(value, indent=2) + "\n" for name, value in video_settings(lvlm).items()}
        for name, text in {**texts, **videos, CONFIG_FILE: config.to_json()}.items():
            (tmp_dir / name).write_text(text, encoding="utf-8")
    return folder


def load_adapter(name: str | os.PathLike, lvlm: LVLM | None = None, /, **load: Any) -> tuple[LVLM, AdapterConfig]:
    """Attach a saved adapter to the given LVLM, or else to its base, loaded with the keywords `load`.

        lvlm, config = load_adapter("my-adapter", max_pixels=512 * 512)

    Raises BadAdapter if the folder is incomplete or a tensor is missing, unexpected or of another shape; the LVLM is
    then left as it was.
    """
    folder = adapter_folder(name)
    if missing := [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]:
        raise BadAdapter(f"{folder} has no {' and no '.join(missing)}: pass a folder written by save_pretrained")
    config = AdapterConfig.read(folder / CONFIG_FILE)
    shapes = saved_shapes(folder)
    try:
        lvlm = lvlm or load_lvlm(**{"name": config.base, **load})
    except UnknownModel as error:
        raise BadAdapter(
            f"the base of '{name}', '{config.base}', was not found ({error}); if it is a local folder, pass it: "
            "Embedder.from_pretrained(adapter, load_lvlm(folder))"
        ) from error
    if config.lora is not None:
        lora_settings(lvlm.model, config.lora)  # raises for what older versions let through
        ranks = [config.lora.get("r", 16), *(config.lora.get("rank_pattern") or {}).values()]
        largest = max((size for shape in shapes.values() for size in shape), default=0)
        if max(ranks) > largest:  # before they are allocated
            raise BadAdapter(f"{folder} has LoRA's rank {max(ranks):,}, but no tensor of that size: save it again")
    attach_adapter(lvlm, config)
    try:
        load_adapter_weights(lvlm, folder)
    except BaseException:
        detach_adapter(lvlm)
        raise
    return lvlm, config


def load_adapter_weights(lvlm: LVLM, folder: str | os.PathLike) -> None:
    """Load a folder's weights into the attached adapter: `load_adapter_weights(lvlm, "checkpoints/checkpoint-50")`.

    Raises BadAdapter as `check_adapter_weights` does; nothing is loaded then.
    """
    from peft import set_peft_model_state_dict

    with lvlm.lock:
        set_peft_model_state_dict(lvlm.adapter, check_adapter_weights(lvlm, folder))


def check_adapter_weights(lvlm: LVLM, folder: str | os.PathLike) -> dict[str, Tensor]:
    """Read a folder's weights and check that they fit the attached adapter: `check_adapter_weights(lvlm, folder)`.

    Raises BadAdapter if a tensor is missing, unexpected or of another shape.
    """
    from safetensors.torch import load_file

    saved = saved_shapes(Path(folder))
    expected = {key: tuple(tensor.shape) for key, tensor in adapter_state(lvlm).items()}
    if wrong := sorted(key for key in expected.keys() | saved.keys() if expected.get(key) != saved.get(key)):
        raise BadAdapter(
            f"{folder} does not fit {lvlm.name}: {len(wrong)} tensors are missing, unexpected or of another shape, "
            f"first '{wrong[0]}' (saved {saved.get(wrong[0])}, expected {expected.get(wrong[0])})"
        )
    return load_file(Path(folder) / WEIGHTS_FILE)


def saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's tensors from the file's header: `saved_shapes(Path("my-adapter"))`.

    Raises BadAdapter for a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS_FILE
    try:
        if not is_regular(path):
            raise FileNotFoundError("no such file")
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise BadAdapter(f"{path} is damaged ({error}): download or save the adapter again") from error


def adapter_folder(name: str | os.PathLike) -> Path:
    """Return an adapter's folder: a local one, the shipped one, or one downloaded by hub id: `adapter_folder("me/a")`.

    Raises BadAdapter for any other name, HubError if the download fails.
    """
    if name == SHIPPED_ADAPTER:  # as text: a Path of this name is a folder
        warn_of_folder(name)
        return SHIPPED / SHIPPED_ADAPTER
    if Path(name).is_dir():
        return Path(name)
    if is_hub_id(str(name)):
        return download(str(name), ADAPTER_FILES)
    raise BadAdapter(f"'{name}' is neither a folder, nor the shipped {SHIPPED_ADAPTER}, nor a hub id")
