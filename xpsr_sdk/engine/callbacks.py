"""Callbacks after each step, with the interface of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from xpsr_sdk.contracts import StepCallback
from xpsr_sdk.errors import ConfigError

StepEndCallback = Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None]
"""``callback(pipe, step, timestep, {"latents": latents})``, which may return a dictionary with other latents."""


def step_callback(pipe: object, callback: StepEndCallback) -> StepCallback:
    """Make a callback for samplers from a callback of diffusers.

    Latents that the callback returns are copied into the sampler's own tensor, with which the sampler continues.

    Raises:
        ConfigError: At a step: the callback returned latents of another shape.
    """

    def after_step(step: int, timestep: int, latents: Tensor) -> None:
        returned = callback(pipe, step, timestep, {"latents": latents}) or {}
        given = returned.get("latents", latents)
        if given.shape != latents.shape:
            shapes = f"{tuple(given.shape)}, not {tuple(latents.shape)}"
            raise ConfigError(f"callback_on_step_end returned latents of shape {shapes}.")
        latents.copy_(given)

    return after_step
