"""Where an LVLM runs and in which numbers, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


class NotFinite(ValueError):
    """Numbers have run over: an embedding or a loss is infinite or NaN."""


@dataclass(frozen=True)
class Placement:
    """A device and a dtype, and the reason for them in one sentence."""

    device: str
    dtype: torch.dtype
    why: str


def place(device: str | None = None, dtype: torch.dtype | None = None) -> Placement:
    """Chooses a device and a dtype; what is given is kept.

        place().why    # "float32 on the CPU: …"

    On a CUDA GPU bfloat16 from compute capability 8.0. `torch.cuda.is_bf16_supported()` is not asked: on a T4 (7.5) it
    says yes, by emulation. Older GPUs get float16, whose numbers end at 65,504: `fit` stops at states that are not
    finite. A CPU computes in float32. Of several GPUs one is used, the first unless told.
    Raises ValueError for a CUDA device where there is none.
    """
    own = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # a launched rank has its own
    wanted = torch.device(device or (own if torch.cuda.is_available() else "cpu"))
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device='{device}', but torch sees no CUDA GPU: leave device out to run on the CPU")
    chosen, why = _dtype_for(wanted)
    if dtype is not None:
        chosen, why = dtype, "as asked"
    name = "the CPU" if wanted.type == "cpu" else str(wanted)
    several = torch.cuda.device_count() if wanted.type == "cuda" else 0
    if several > 1:
        why += f"; one of {several} GPUs is used: to use all, run a process on each, with device='cuda:1' and so on"
    return Placement(str(wanted), chosen, f"{str(chosen).removeprefix('torch.')} on {name}: {why}")


def _dtype_for(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return torch.bfloat16, f"compute capability {major}.{minor} has it in hardware"
        return torch.float16, f"compute capability {major}.{minor} has no bfloat16 in hardware (from 8.0)"
    return torch.float32, "half precision is no gain here" if device.type == "cpu" else "the safe choice"


def check_finite(values: torch.Tensor, dtype: torch.dtype, what: str = "states") -> None:
    """Stops at what is no number any more: `check_finite(embeddings, model.dtype)`.

    Raises NotFinite with the dtype and the way out.
    """
    if not bool(values.isfinite().all()):
        name = str(dtype).removeprefix("torch.")
        limit = ", whose numbers end at 65,504" if dtype == torch.float16 else ""
        raise NotFinite(
            f"the {what} are not finite in {name}{limit}: load the model with dtype=torch.float32, or with "
            "torch.bfloat16 on a GPU of compute capability 8.0 or more"
        )
