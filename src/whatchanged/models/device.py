"""Which device and precision a model runs on, and what to do when its memory runs out."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from whatchanged.errors import ConfigError, first_line

if TYPE_CHECKING:
    import torch

# On a machine of unknown size, a batch may hold this much beside the weights.
_CPU_BATCH_BYTES = 2**30
_CUDA_FREE_SHARE = 0.6
# What NVIDIA's driver and AMD's put into the file system.
_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def may_use_gpu(device: str) -> bool:
    """Whether `choose_device` may choose a GPU, told without loading torch: it is asked for, or
    `auto` and this machine has the driver of one."""
    if device != "auto":
        return device != "cpu"
    return any(path.exists() for path in _GPU_DRIVERS)


def choose_device(device: str) -> torch.device:
    """The device that a config names; `auto` is the first CUDA device, else the CPU.

    Raises ConfigError for a name that torch does not know or a device that is not there.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = first_line(error)
        raise ConfigError(
            f"run.device: expected auto, cpu or a device of this machine such as cuda:0, "
            f"found {device!r} ({said}): use auto"
        ) from None
    return chosen


def name_device(device: torch.device) -> str:
    """What computes, without what changes from run to run: a GPU's own name, or the device's."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def describe_device(device: torch.device) -> str:
    """The device for people: a GPU with its name and memory in GiB, the CPU with its threads."""
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return f"{device}, {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return f"{device}, {torch.get_num_threads()} threads"


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (emulation is slower than
    float32)."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def batch_bytes(device: torch.device) -> int:
    """How many bytes one batch may take: a share of the free memory on CUDA, 1 GiB elsewhere."""
    import torch

    if device.type != "cuda":
        return _CPU_BATCH_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * _CUDA_FREE_SHARE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the device or on the host."""
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in message for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )


def release_memory() -> None:
    """Give unused memory back to the device.

    Call it after the except block: inside, the traceback still keeps the failed batch alive.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
