"""Choose device and dtype, and report this process's rank."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


class NonFiniteError(ValueError):
    """An embedding, a loss or a gradient is infinite or NaN."""


class MemoryShortage(MemoryError):
    """Memory ran out; the message names the batch size and what needs less."""


def is_memory_shortage(error: BaseException) -> bool:
    """Return whether an error means that memory ran out: `is_memory_shortage(MemoryError())`.

    Libraries below CUDA report it in their own words, and the CPU's allocators in theirs.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SHORTAGE)


_SHORTAGE = (
    "can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR", "CUDNN_STATUS_NOT_SUPPORTED",
    "Unable to find a valid cuDNN algorithm", "CUSOLVER_STATUS_ALLOC_FAILED",
)  # fmt: skip


@contextmanager
def memory_advice(advice: Callable[[], str]) -> Iterator[None]:
    """Raise MemoryShortage with an advice if memory runs out in the block, whatever the library raised.

    with memory_advice(lambda: f"while encoding with batch_size={size}: pass batch_size={size // 4}"): ...
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryShortage) or not is_memory_shortage(error):
            raise
        raise MemoryShortage(f"out of memory {advice()} ({short_reason(error)})") from error


def short_reason(error: BaseException) -> str:
    """Return an error's type and the start of its message on one line: `short_reason(MemoryError("bad_alloc"))`."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}".removesuffix(": ")


@dataclass(frozen=True)
class DeviceChoice:
    """A device, a dtype, and the reason for both in one sentence."""

    device: str
    dtype: torch.dtype
    reason: str


def choose_device(device: str | None = None, dtype: torch.dtype | None = None) -> DeviceChoice:
    """Choose a device and a dtype; explicit arguments win: `choose_device().reason` is "float32 on the CPU: …".

    GPUs of compute capability 8.0 or higher use bfloat16. `torch.cuda.is_bf16_supported()` is no criterion: it is true
    on a T4 (7.5), which only emulates bfloat16. Older GPUs use float16, which overflows above 65,504: `fit` leaves
    out a step whose scaled gradients do, and stops if that persists. CPUs use float32. One GPU is used, the first by
    default.
    Raises ValueError for a CUDA device if torch finds no GPU.
    """
    gpu = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # one GPU per launched rank
    chosen = torch.device(device or (gpu if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device='{device}', but torch finds no CUDA GPU: leave device out to run on the CPU")
    default, reason = _default_dtype(chosen)
    if dtype is not None:
        default, reason = dtype, "as requested"
    name = "the CPU" if chosen.type == "cpu" else str(chosen)
    n_gpus = torch.cuda.device_count() if chosen.type == "cuda" else 0
    if n_gpus > 1:
        reason += (
            f"; one of {n_gpus} GPUs is used: to train on all, run `accelerate launch --num_processes {n_gpus} "
            "-m vladva_kit train …`; to encode on another, pass device='cuda:1'"
        )
    return DeviceChoice(str(chosen), default, f"{str(default).removeprefix('torch.')} on {name}: {reason}")


def _default_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if supports_bfloat16(device):
            return torch.bfloat16, f"compute capability {major}.{minor} supports it in hardware"
        return torch.float16, f"compute capability {major}.{minor} lacks bfloat16 in hardware (8.0 and higher have it)"
    return torch.float32, "half precision is not faster here" if device.type == "cpu" else "the safe choice"


def supports_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware: `supports_bfloat16(torch.device("cpu"))`."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def prefer_bfloat16() -> bool | None:
    """Return the fastest `Settings(bf16=…)` here: True on a CPU with bfloat16 in hardware, otherwise None.

    There a training step takes half as long, and the losses agree to two digits.
    """
    device = torch.device(choose_device().device)
    return True if device.type == "cpu" and supports_bfloat16(device) else None


def use_bfloat16(requested: bool | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Decide on bfloat16 autocast: `use_bfloat16(None, torch.device("cpu"), torch.float32)` is False.

    None: if the weights are in bfloat16 on a GPU.
    Warns for a CPU that emulates bfloat16, which is slower than float32.
    Raises ValueError for a GPU that emulates bfloat16, and for weights in float16.
    """
    if not requested:
        return requested is None and dtype == torch.bfloat16 and device.type != "cpu"
    if dtype == torch.float16:
        raise ValueError("bf16=True, but the weights are in float16: load the model with dtype=torch.bfloat16")
    if not supports_bfloat16(device):
        if device.type == "cuda":
            raise ValueError(
                f"bf16=True, but {device} lacks bfloat16 in hardware (compute capability 8.0 has it): "
                "leave bf16 out; load_lvlm chooses float16 there"
            )
        warnings.warn(
            "bf16=True on a CPU that emulates bfloat16: training works, but slower than in float32; leave bf16 out",
            stacklevel=2,
        )
    return True


def check_finite(values: torch.Tensor, dtype: torch.dtype, what: str = "states") -> None:
    """Raise NonFiniteError if a value is infinite or NaN: `check_finite(embeddings, model.dtype, "embeddings")`."""
    if not bool(values.isfinite().all()):
        name = str(dtype).removeprefix("torch.")
        limit = ", which overflows above 65,504" if dtype == torch.float16 else ""
        if dtype == torch.float32:
            fix = "an input or a weight holds NaN or infinity, or the learning rate is too high"
        else:
            fix = (
                "load the model with dtype=torch.float32, or with torch.bfloat16 on a GPU of compute capability 8.0 or "
                "higher"
            )
        raise NonFiniteError(f"the {what} are not finite in {name}{limit}: {fix}")


def world_size() -> int:
    """Return the number of processes in the process group, 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank in the process group, 0 without a group."""
    return dist.get_rank() if world_size() > 1 else 0


def rank_from_env() -> tuple[int, int]:
    """Return (rank, world size) as set by `accelerate launch` or torchrun, else (0, 1); needs no process group."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
