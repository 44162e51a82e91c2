"""Where an LVLM runs and in which numbers, and why."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist


class NonFiniteError(ValueError):
    """Numbers have run over: an embedding or a loss is infinite or NaN."""


@dataclass(frozen=True)
class DeviceChoice:
    """A device and a dtype, and the reason for them in one sentence."""

    device: str
    dtype: torch.dtype
    why: str


def place(device: str | None = None, dtype: torch.dtype | None = None) -> DeviceChoice:
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
        why += (
            f"; one of {several} GPUs is used: to train on all, `accelerate launch --num_processes {several} "
            "-m vladva_kit train …`; to encode on another, device='cuda:1'"
        )
    return DeviceChoice(str(wanted), chosen, f"{str(chosen).removeprefix('torch.')} on {name}: {why}")


def _dtype_for(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if supports_bfloat16(device):
            return torch.bfloat16, f"compute capability {major}.{minor} has it in hardware"
        return torch.float16, f"compute capability {major}.{minor} has no bfloat16 in hardware (from 8.0)"
    return torch.float32, "half precision is no gain here" if device.type == "cpu" else "the safe choice"


def supports_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself: `supports_bfloat16(torch.device("cpu"))`; others only emulate it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def use_bfloat16(asked: bool | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether forwards run under autocast to bfloat16: as asked, else where the weights of a model on a GPU are in it.

        use_bfloat16(None, torch.device("cpu"), torch.float32)    # False

    A CPU that only emulates bfloat16 does as asked, slower than in float32, and that is said.
    Raises ValueError where it is asked for on a GPU that only emulates it, or of weights in float16.
    """
    if not asked:
        return asked is None and dtype == torch.bfloat16 and device.type != "cpu"
    if dtype == torch.float16:
        raise ValueError("bf16=True, but the weights are in float16: load the model with dtype=torch.bfloat16")
    if not supports_bfloat16(device):
        if device.type == "cuda":
            raise ValueError(
                f"bf16=True, but {device} has no bfloat16 in hardware (compute capability 8.0 has it): "
                "leave bf16 out; load_lvlm chooses float16 there"
            )
        warnings.warn(
            "bf16=True on a CPU that emulates bfloat16: it will train, but slower than in float32; leave bf16 out",
            stacklevel=2,
        )
    return True


def check_finite(values: torch.Tensor, dtype: torch.dtype, what: str = "states") -> None:
    """Stops at what is no number any more: `check_finite(embeddings, model.dtype)`.

    Raises NonFiniteError with the dtype and the way out.
    """
    if not bool(values.isfinite().all()):
        name = str(dtype).removeprefix("torch.")
        limit = ", whose numbers end at 65,504" if dtype == torch.float16 else ""
        raise NonFiniteError(
            f"the {what} are not finite in {name}{limit}: load the model with dtype=torch.float32, or with "
            "torch.bfloat16 on a GPU of compute capability 8.0 or more"
        )


def world_size() -> int:
    """How many processes train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 where there is no process group."""
    return dist.get_rank() if world_size() > 1 else 0


def launched() -> tuple[int, int]:
    """(rank, ranks) as `accelerate launch` or torchrun set them; (0, 1) without. Needs no process group."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
