"""Loading an LVLM: the shipped one, a folder, or a hub id; by transformers' own classes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.families import Family, family_of

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, ProcessorMixin

SHIPPED = Path(__file__).parent / "emoji_world"
KNOWN = ("emoji-llava",)


class UnknownModel(ValueError):
    """A name that is neither a shipped model, nor a folder with a config.json, nor a hub id."""


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
    if name.count("/") == 1 and not name.startswith((".", "/")):
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
    trust_remote_code: bool = False,
    **from_pretrained: Any,
) -> LVLM:
    """Loads an LVLM and freezes it.

        lvlm = load_lvlm("emoji-llava")                              # shipped, offline, 5 million weights
        lvlm = load_lvlm("llava-hf/llava-1.5-7b-hf", device="cuda")  # from the hub

    dtype: on a CUDA GPU bfloat16 from compute capability 8.0, else float16; elsewhere float32. Weights are read from
    safetensors only. Further keywords go to `from_pretrained`.
    Raises UnknownModel for a name that leads nowhere.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    source = resolve(name)
    device = device or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    if dtype is None:
        on_gpu = torch.device(device).type == "cuda"
        capable = on_gpu and torch.cuda.get_device_capability(device)[0] >= 8
        dtype = torch.bfloat16 if capable else torch.float16 if on_gpu else torch.float32
    shared = {"trust_remote_code": trust_remote_code}
    model = AutoModelForImageTextToText.from_pretrained(
        source, dtype=dtype, use_safetensors=True, **shared, **from_pretrained
    )
    model = model.to(device).eval().requires_grad_(False)
    processor = AutoProcessor.from_pretrained(source, **shared)
    family = family_of(model.config.model_type)
    if not family.tested:
        warnings.warn(f"{name} is of the family '{family.model_type}': {family.note}", stacklevel=2)
    return LVLM(name, model, processor, family)
