"""Which device to compute on."""

from __future__ import annotations

from typing import Any

import torch

from xpsr_sdk.errors import ConfigError


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; None: the first there is of cuda, xpu, mps, cpu.

    Raises:
        ConfigError: There is no such device.
    """
    if name is None:
        kinds: dict[str, Any] = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}
        return torch.device(next((kind for kind, backend in kinds.items() if backend.is_available()), "cpu"))
    try:
        return torch.zeros(1, device=name).device
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"The device {str(name)!r} cannot be used: {reason}") from error
