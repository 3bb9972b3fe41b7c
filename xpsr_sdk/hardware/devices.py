"""Which device to compute on, in which precision, and how much memory it has left."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from xpsr_sdk.errors import ConfigError, did_you_mean
from xpsr_sdk.hardware.control_groups import free_in_control_groups
from xpsr_sdk.hardware.process_memory import free_address_space
from xpsr_sdk.library_internals import cpu_multiplies_bfloat16

KINDS = ("cpu", "cuda", "mps", "xpu")
"""What the names of devices begin with."""


def find_device(name: str | torch.device | None) -> torch.device:
    """The device with that name. None: the first one available of cuda, xpu, mps and cpu.

    Raises:
        ConfigError: There is no such device.
    """
    if name is None:
        kinds: dict[str, Any] = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}
        return torch.device(next((kind for kind, backend in kinds.items() if backend.is_available()), "cpu"))
    if str(name).startswith("meta"):
        raise ConfigError("The device 'meta' computes nothing: choose cuda, xpu, mps or cpu.")
    try:
        return torch.zeros(1, device=name).device
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        if reason.startswith(("Expected one of", "Invalid device string")):
            hint = did_you_mean(str(name).partition(":")[0], KINDS)
            raise ConfigError(f"There is no device {str(name)!r}. {hint}") from error
        raise ConfigError(f"The device {str(name)!r} cannot be used: {reason}") from error


def find_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies matrices in it (tensor cores, AMX, AVX512-BF16), else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fast = cpu_multiplies_bfloat16()
    else:
        fast = device.type == "xpu"
    return torch.bfloat16 if fast else torch.float32


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device, including the reserve of the allocator.

    On the CPU, the limits of ulimit and of control groups are considered.
    """
    if device.type in {"cuda", "xpu"}:
        backend: Any = getattr(torch, device.type)
        reserve = backend.memory_reserved(device) - backend.memory_allocated(device)
        return int(backend.mem_get_info(device)[0]) + int(reserve)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    limits = psutil.virtual_memory().available, free_address_space(), free_in_control_groups()
    return max(min(int(limit) for limit in limits if limit is not None), 0)
