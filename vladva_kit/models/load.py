"""Loading an LVLM: the shipped one, a folder, or a hub id; by transformers' own classes."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.models.device import DeviceChoice, place
from vladva_kit.models.families import Family, family_of
from vladva_kit.models.hub import MODEL_FILES, download, is_hub_id
from vladva_kit.models.resolution import limit_pixels

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

SHIPPED = Path(__file__).parents[1] / "emoji_world"
KNOWN = ("emoji-llava",)


class UnknownModel(ValueError):
    """A name that is neither a shipped model, nor a folder with a config.json, nor a hub id."""


class MissingExtra(ValueError):
    """A package that only some uses need is not installed; the message says how to get it."""


@dataclass
class LVLM:
    """A generative LVLM with its processor; frozen, so that only what is attached to it can learn.

    `adapter` is what `attach` put in place; a baseline on the same LVLM runs with it switched off.
    """

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    family: Family
    adapter: PeftModel | None = field(default=None, repr=False)

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """The untouched LVLM, bit for bit, inside the `with` block.

        with lvlm.adapter_off(): lvlm.model.generate(...)
        """
        if self.adapter is None:
            yield
            return
        learning = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            with self.adapter.disable_adapter():
                yield
        finally:
            for parameter, learns in learning:  # on its way out peft would let all of the adapter learn
                parameter.requires_grad_(learns)


def resolve(name: str, known: tuple[str, ...] = KNOWN) -> str:
    """A shipped model's folder, a folder, or a hub id, as `from_pretrained` takes it.

        resolve("emoji-llava")            # the folder inside the package
        resolve("Qwen/Qwen2-VL-2B-Instruct")

    Raises UnknownModel, with the shipped names, for anything else.
    """
    if name in known:
        return str(SHIPPED / name)
    if (Path(name) / "config.json").is_file():
        return str(name)
    if Path(name).exists():
        raise UnknownModel(f"'{name}' exists but holds no config.json: give the folder that save_pretrained wrote")
    if is_hub_id(name):
        return name
    raise UnknownModel(
        f"no model is called '{name}': shipped is {', '.join(known)}; otherwise give a folder with a config.json "
        "or a hub id such as HuggingFaceTB/SmolVLM-256M-Instruct"
    )


def load_lvlm(
    name: str = "emoji-llava",
    *,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    max_pixels: int | None = None,
    four_bit: bool = False,
    trust_remote_code: bool = False,
    **from_pretrained: Any,
) -> LVLM:
    """Loads an LVLM and freezes it.

        lvlm = load_lvlm("emoji-llava")                              # shipped, offline, 5 million weights
        lvlm = load_lvlm("llava-hf/llava-1.5-7b-hf", device="cuda")  # from the hub
        lvlm = load_lvlm("Qwen/Qwen2-VL-2B-Instruct", max_pixels=512 * 512)

    dtype and device: as `place` chooses them. max_pixels: the most pixels of a picture that the tower reads; larger
    ones are made smaller, and families that cut pictures into tiles cut fewer. Weights are read from safetensors only.
    four_bit: the LLM's and the tower's linear layers in NF4, a quarter of the memory, by bitsandbytes
    (`pip install 'vladva-kit[4bit]'`). A model of a family without a record triggers a warning that it is unverified.
    revision, token and cache_dir go to the hub, further keywords to `from_pretrained`.
    Raises UnknownModel for a name that leads nowhere, HubError where it cannot be download, MissingExtra where
    four_bit lacks its package.
    """
    from transformers import AutoModelForImageTextToText

    device_choice = place(device, dtype)
    if "GPUs" in device_choice.why:
        warnings.warn(device_choice.why, stacklevel=2)
    quantized = _four_bits(device_choice) if four_bit else {}
    source = _local(name, trust_remote_code, from_pretrained)
    shared = {"trust_remote_code": trust_remote_code}
    model = AutoModelForImageTextToText.from_pretrained(
        source, dtype=device_choice.dtype, use_safetensors=True, **shared, **quantized, **from_pretrained
    )
    if not four_bit and "device_map" not in from_pretrained:
        model = model.to(device_choice.device)
    model = model.eval().requires_grad_(False)
    family = family_of(model.config)
    processor = load_processor(source, model.config, family, **shared)
    if max_pixels is not None:
        limit_pixels(processor, family, max_pixels)
        family = replace(family, max_pixels=max_pixels)
    lvlm = LVLM(name, model, processor, family)
    if not family.tested:
        warnings.warn(
            f"{name}: the family '{family.model_type}' is unverified here; verify it with vk.check(lvlm), or `vladva check`",
            stacklevel=2,
        )
    return lvlm


def _local(name: str, trust_remote_code: bool, keywords: dict[str, Any]) -> str:
    """The model's folder on this machine; what is for the hub is taken out of the keywords."""
    source = resolve(name)
    to_hub = {key: keywords.pop(key) for key in ("revision", "token", "cache_dir") if key in keywords}
    if source == name and not Path(name).exists():
        source = str(download(name, (*MODEL_FILES, *(["*.py"] if trust_remote_code else [])), **to_hub))
    if not any(Path(source).glob("*.safetensors")) and "gguf_file" not in keywords:
        raise UnknownModel(
            f"'{name}' holds no *.safetensors: weights in other formats can run code and are not read; ask its authors "
            "for safetensors, or convert them with transformers' save_pretrained"
        )
    return source


def _four_bits(device_choice: DeviceChoice) -> dict[str, Any]:
    """What from_pretrained needs for weights in 4 bits."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("four_bit=True needs bitsandbytes: pip install 'vladva-kit[4bit]', or leave four_bit out")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=device_choice.dtype
    )
    return {"quantization_config": config, "device_map": {"": device_choice.device}}


def load_processor(source: str, config: PreTrainedConfig, family: Family, **shared: Any) -> ProcessorMixin:
    """The family's processor; where torchvision is missing, which only videos need, the same one without its videos.

        load_processor(folder, model.config, family_of(model.config))

    Raises ImportError where a package is missing that pictures need too.
    """
    import transformers
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        processor = AutoProcessor.from_pretrained(source, **shared)
    except ImportError:
        own = PROCESSOR_MAPPING[type(config)]
        if "video_processor" not in own.get_attributes():
            raise
        own = getattr(transformers, family.processor) if family.processor else own
        without_videos = {"get_attributes": classmethod(lambda cls: ["image_processor", "tokenizer"])}
        processor = type(own.__name__, (own,), without_videos).from_pretrained(source, **shared)
    if processor.chat_template is None:
        processor.chat_template = family.template
    return processor
