"""Load an LVLM: the shipped one, a local folder, or a hub id."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vladva_kit.models.device import DeviceChoice, choose_device, memory_advice, short_reason
from vladva_kit.models.families import Family, family_of
from vladva_kit.models.files import is_regular, read_object
from vladva_kit.models.hub import KIND_FILES, MODEL_FILES, download, is_hub_id
from vladva_kit.models.resolution import limit_pixels
from vladva_kit.models.turns import ModelLock, model_lock

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

SHIPPED = Path(__file__).parents[1] / "emoji_world"
SHIPPED_LVLMS = ("emoji-llava",)
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "depth")  # keys of configs
FIRST_RIGHT_TRANSFORMERS = "5.6"


class UnknownModel(ValueError):
    """A name that is neither a shipped model, nor a folder with a config.json, nor a hub id."""


class MissingExtra(ValueError):
    """An optional package is not installed; the message gives the command that installs it."""


@dataclass
class LVLM:
    """A frozen generative LVLM with its processor; only what `attach` adds is trainable.

    `adapter` is set by `attach`. An `Embedder` without adapter on the same LVLM runs with the adapter disabled. Several
    threads may use embedders on one LVLM and `fit`: each call holds `lock`, and a training step is one turn.
    """

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    family: Family
    adapter: PeftModel | None = field(default=None, repr=False)
    revision: str | None = None  # the hub's commit, None for a shipped model or a local folder

    @property
    def lock(self) -> ModelLock:
        """The model's lock, for code that calls the model itself: `with lvlm.lock: loss.backward()`."""
        return model_lock(self.model)

    @property
    def embedding(self) -> nn.Embedding:
        """The LLM's token embedding, which holds the soft prompt: `lvlm.embedding.num_embeddings`."""
        return cast("nn.Embedding", self.model.get_input_embeddings())

    @property
    def peft_model(self) -> PeftModel:
        """The adapter, for code that runs after `attach`: `lvlm.peft_model.state_dict()`."""
        return cast("PeftModel", self.adapter)

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Disable the adapter in this block: `with lvlm.adapter_off(): lvlm.model.generate(...)`.

        Outputs are bit-identical to the base model's. Other threads wait until the block ends.
        """
        with self.lock:
            if self.adapter is None:
                yield
                return
            trainable = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
            try:
                with self.adapter.disable_adapter():
                    yield
            finally:
                for parameter, requires_grad in trainable.items():  # peft makes the complete adapter trainable on exit
                    parameter.requires_grad_(requires_grad)


def resolve(name: str, shipped: tuple[str, ...] = SHIPPED_LVLMS) -> str:
    """Return what `from_pretrained` takes for a name: a shipped model's folder, a local folder, or a hub id.

        resolve("emoji-llava")            # the folder inside the package
        resolve("Qwen/Qwen2-VL-2B-Instruct")

    Raises UnknownModel, listing the shipped names, for anything else.
    """
    if name in shipped:
        warn_of_folder(name)
        return str(SHIPPED / name)
    if (Path(name) / "config.json").is_file():
        return str(name)
    _refuse_adapter(name, Path(name))
    if Path(name).exists():
        raise UnknownModel(f"'{name}' exists but has no config.json: pass a folder written by save_pretrained")
    if is_hub_id(name):
        return name
    raise UnknownModel(
        f"no model is called '{name}': pass a shipped name ({', '.join(shipped)}), a folder with a config.json, "
        "or a hub id such as HuggingFaceTB/SmolVLM-256M-Instruct"
    )


def warn_of_folder(name: str) -> None:
    """Warn that the shipped model is loaded, if a folder here has its name too: `warn_of_folder("emoji-llava")`."""
    if Path(name).is_dir():
        warnings.warn(f"'{name}' is the shipped one; to load the folder of this name, write './{name}'", stacklevel=4)


def load_weights(auto_class: Any, source: str, name: str, **options: Any) -> PreTrainedModel:
    """Load a model with all its weights: `load_weights(AutoModel, folder, "emoji-clip", dtype=torch.float32)`.

    Raises UnknownModel if weights are missing or of another shape, for which transformers takes random ones, or if a
    file of weights is damaged.
    """
    from huggingface_hub.errors import StrictDataclassError

    options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True, **options}
    _check_layers(source, name)
    smaller = "choose a smaller model, or four_bit=True on a GPU"
    try:
        with memory_advice(lambda: f"while loading '{name}': {smaller}, or correct its config.json"):
            model, found = auto_class.from_pretrained(source, **options)
    except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise UnknownModel(
            f"'{name}' cannot be built from its config.json ({short_reason(error)}): correct it or download it again"
        ) from error
    mismatched = [f"{key} (saved {tuple(saved)}, needed {tuple(needed)})" for key, saved, needed in
                  sorted(found.get("mismatched_keys", ()))]  # fmt: skip
    missing = sorted(found.get("missing_keys", ()))
    for wrong, kind in ((missing, "lacks"), (mismatched, "has weights of another shape:")):
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UnknownModel(
                f"'{name}' {kind} {', '.join(wrong[:3])}{more}: transformers would take random weights instead; "
                "download or save the model again"
            )
    return model


def _check_layers(source: str, name: str) -> None:
    """Raise UnknownModel for damaged weights, or for more layers in the config than tensors in the weights' headers."""
    from safetensors import SafetensorError, safe_open

    tensors = 0
    for path in sorted(Path(source).glob("*.safetensors")):
        try:
            if not is_regular(path):
                raise OSError(f"{path.name} is not a regular file")
            with safe_open(path, framework="pt") as file:
                tensors += len(file.keys())
        except (OSError, SafetensorError) as error:  # its header is checked before the file is mapped
            raise UnknownModel(f"the weights of '{name}' are damaged ({error}): download or save them again") from error
    config = read_object(Path(source) / "config.json", UnknownModel) if tensors else {}
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        layers = max((part[key] for key in LAYERS if isinstance(part.get(key), int)), default=0)
        if layers > tensors:
            raise UnknownModel(f"'{name}' has {layers:,} layers in its config.json and {tensors} tensors: correct it")


def refuse_wrong_transformers() -> None:
    """Raise ImportError for a transformers that computes wrong image embeddings, without an error of its own.

    refuse_wrong_transformers()    # 5.3 to 5.5 do: emoji-llava's embeddings differ by up to 0.28
    """
    import transformers
    from packaging.version import Version

    if Version(transformers.__version__) < Version(FIRST_RIGHT_TRANSFORMERS):
        raise ImportError(
            f"transformers {transformers.__version__} computes wrong image embeddings: pip install "
            f"'transformers>={FIRST_RIGHT_TRANSFORMERS}', or better vladva-kit's own requirement"
        )


def base_name(name: str) -> str:
    """Return a model's name without the path of a local folder: `base_name("/data/llava") == "llava"`.

    Hub ids and shipped names are unchanged.
    """
    return name if is_hub_id(name) and not Path(name).exists() else Path(name).resolve().name


def _refuse_adapter(name: str, folder: Path) -> None:
    """Raise UnknownModel for the folder of an adapter, which transformers would load without its soft prompts."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UnknownModel(f"'{name}' is an adapter, not an LVLM: load it with its base by Embedder.from_pretrained")


def model_type(name: str) -> str:
    """Return the model_type of a model's config, downloading no more: `model_type("emoji-clip") == "clip"`.

    Raises UnknownModel as `resolve` does and for a repository without config.json, HubError if the download fails.
    """
    source = resolve(name, (*SHIPPED_LVLMS, "emoji-clip"))
    folder = Path(source) if Path(source).exists() else download(name, KIND_FILES)
    if not (folder / "config.json").is_file():
        _refuse_adapter(name, folder)
        raise UnknownModel(f"'{name}' has no config.json, so it is no model: correct the name")
    return read_object(folder / "config.json", UnknownModel).get("model_type", "")


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
    """Load a generative vision-language model with its processor, and freeze it.

        lvlm = load_lvlm("emoji-llava")                              # shipped, offline, 5 million parameters
        lvlm = load_lvlm("llava-hf/llava-1.5-7b-hf", device="cuda")  # from the hub
        lvlm = load_lvlm("Qwen/Qwen2-VL-2B-Instruct", max_pixels=512 * 512)

    name: "emoji-llava", a folder written by `save_pretrained`, or a hub id. Weights are read from safetensors only.
    dtype, device: chosen by `choose_device` if left out: bfloat16 or float16 on a GPU, float32 on a CPU.
    max_pixels: larger images are shrunk to this many pixels; families that split images into tiles use fewer tiles.
    four_bit: load the linear layers in NF4, which takes a quarter of the memory (`pip install 'vladva-kit[4bit]'`).
    revision, token and cache_dir are passed to the hub, other keywords to `from_pretrained`.

    Warns if the model's family is unverified; `vk.check(lvlm)` or `vladva check` verifies it.
    Raises UnknownModel for an unknown name, a model of another kind or one that lacks weights, HubError if the download
    fails, MissingExtra without bitsandbytes, ImportError for a transformers that computes wrong embeddings.
    """
    from transformers import AutoModelForImageTextToText

    refuse_wrong_transformers()
    choice = choose_device(device, dtype)
    if "GPUs" in choice.reason:
        warnings.warn(choice.reason, stacklevel=2)
    quantization = _four_bit_options(choice) if four_bit else {}
    source = _local_source(name, trust_remote_code, from_pretrained)
    _check_generative(name, source, trust_remote_code)
    shared = {"trust_remote_code": trust_remote_code}
    options = {"dtype": choice.dtype, **shared, **quantization, **from_pretrained}
    model = load_weights(AutoModelForImageTextToText, source, name, **options)
    if not four_bit and "device_map" not in from_pretrained:
        model = model.to(choice.device)  # type: ignore[arg-type]  # the wrapper of transformers shows `self` as an argument
    model = model.eval().requires_grad_(False)
    family = family_of(model.config)
    processor = load_processor(source, model.config, family, **shared)
    if max_pixels is not None:
        limit_pixels(processor, family, max_pixels)
        family = replace(family, max_pixels=max_pixels)
    if not family.verified:
        hint = f"{name}: the family '{family.model_type}' is unverified; run vk.check(lvlm), or `vladva check {name}`"
        warnings.warn(hint, stacklevel=2)
    commit = Path(source).name if Path(source).parent.name == "snapshots" else None  # the layout of the hub's cache
    return LVLM(name, model, processor, family, revision=commit)


def _local_source(name: str, trust_remote_code: bool, keywords: dict[str, Any]) -> str:
    """Return the model's local folder, downloading it if needed; removes the hub's options from `keywords`."""
    source = resolve(name)
    hub_options = {key: keywords.pop(key) for key in ("revision", "token", "cache_dir") if key in keywords}
    if source == name and not Path(name).exists():
        source = str(download(name, (*MODEL_FILES, *(["*.py"] if trust_remote_code else [])), **hub_options))
        _refuse_adapter(name, Path(source))
    if not any(Path(source).glob("*.safetensors")) and "gguf_file" not in keywords:
        raise UnknownModel(
            f"'{name}' has no *.safetensors; other weight formats can run code and are not read: ask the authors for "
            "safetensors, or convert the weights with transformers' save_pretrained"
        )
    return source


def _check_generative(name: str, source: str, trust_remote_code: bool) -> None:
    """Raise UnknownModel for a model of another kind, for which transformers lists all its classes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    config = read_object(Path(source) / "config.json", UnknownModel)
    known = config.get("model_type") in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if not known and not (trust_remote_code and "auto_map" in config):
        raise UnknownModel(
            f"'{name}' is a {config.get('model_type', 'model without model_type')}, not a generative vision-language "
            "model that transformers knows: load a CLIP or SigLIP with load_baseline, or pass a hub id such as "
            "HuggingFaceTB/SmolVLM-256M-Instruct"
        )


def _four_bit_options(choice: DeviceChoice) -> dict[str, Any]:
    """Return from_pretrained's keywords for 4-bit weights."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("four_bit=True needs bitsandbytes: pip install 'vladva-kit[4bit]', or leave four_bit out")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=choice.dtype)
    return {"quantization_config": config, "device_map": {"": choice.device}}


def load_processor(source: str, config: PreTrainedConfig, family: Family, **shared: Any) -> ProcessorMixin:
    """Load a family's processor: `load_processor(folder, model.config, family_of(model.config))`.

    Without torchvision, which only videos need, the video part is left out. Raises ImportError if images need a
    missing package.
    """
    import transformers
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        processor = AutoProcessor.from_pretrained(source, **shared)
    except ImportError:
        processor_class: Any = PROCESSOR_MAPPING[type(config)]
        if "video_processor" not in processor_class.get_attributes():
            raise
        if family.processor:
            processor_class = getattr(transformers, family.processor)
        image_only = {"get_attributes": classmethod(lambda cls: ["image_processor", "tokenizer"])}
        image_class: Any = type(processor_class.__name__, (processor_class,), image_only)
        processor = image_class.from_pretrained(source, **shared)
    if processor.chat_template is None:
        processor.chat_template = family.template
    return processor


def video_settings(lvlm: LVLM) -> dict[str, Any]:
    """Return the video processor's file, which other libraries expect, if the processor was loaded without it.

    video_settings(lvlm)    # {} or {"video_preprocessor_config.json": {…}}
    """
    source, name = Path(str(lvlm.model.name_or_path)), "video_preprocessor_config.json"
    if hasattr(lvlm.processor, "video_processor") or not source.is_dir():
        return {}
    if (source / name).is_file():
        return {name: json.loads((source / name).read_text())}
    config = source / "processor_config.json"
    settings = json.loads(config.read_text()).get("video_processor") if config.is_file() else None
    return {name: settings} if settings else {}
