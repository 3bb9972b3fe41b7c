"""Callbacks after each step: as users give them, as diffusers has them, and as samplers are handed them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xpsr_sdk.contracts import StepCallback
from xpsr_sdk.engine.nonfinite import is_finite
from xpsr_sdk.errors import ConfigError

UserCallback = Callable[[int, int, Tensor], Tensor | None]
"""``callback(step, timestep, latents)``; may change the latents, or return others to go on with."""
StepEndCallback = Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None]
"""``callback(pipe, step, timestep, {"latents": latents})``, which may return a dictionary with other latents."""


def of_diffusers(pipe: object, callback: StepEndCallback) -> UserCallback:
    """A callback of diffusers' kind as a plain one."""

    def after_step(step: int, timestep: int, latents: Tensor) -> Tensor | None:
        returned = callback(pipe, step, timestep, {"latents": latents}) or {}
        return returned.get("latents")

    return after_step


def for_sampler(callback: UserCallback) -> StepCallback:
    """A user's callback as samplers are handed it: it gives the latents to go on with.

    Raises:
        ConfigError: At a step: the latents that came back have another shape, or are not finite.
    """

    def after_step(step: int, timestep: int, latents: Tensor) -> Tensor:
        shown = latents.clone()
        returned = callback(step, timestep, shown)
        given = shown if returned is None else returned
        if not isinstance(given, Tensor) or given.shape != latents.shape:
            found = f"latents of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise ConfigError(f"The callback after step {step} returned {found}, not {tuple(latents.shape)}.")
        given = given.to(latents)
        if torch.equal(given, latents) or not is_finite(latents):
            return latents
        if not is_finite(given):
            raise ConfigError(f"The callback after step {step} returned latents that are not finite.")
        return latents.copy_(given).clone()  # in place as well, for samplers that go on with what they handed over

    return after_step
