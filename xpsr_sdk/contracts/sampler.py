"""The contract of samplers, which turn noisy latents into clean ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


class Denoiser(Protocol):
    """What a sampler is handed: the model after guidance and tiles, and the noise schedule it was trained with."""

    prediction_type: str
    """``"epsilon"``, ``"v_prediction"`` or ``"sample"``."""
    scheduler: Any
    """The base model's own diffusers scheduler; copy it before use, since schedulers hold state."""
    alphas_cumprod: torch.Tensor
    """Cumulative signal power of the noise schedule, one value for each training timestep."""
    start_timestep: int
    """Sampling begins at this training timestep; the initial latents have its noise level."""

    def predict(self, x_t: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        """The raw model prediction, after guidance. ``x_t``: B C h w with unit-variance scaling; ``t``: a timestep."""
        ...

    def denoised(self, x: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
        """The estimate of the clean latents from ``x = x_0 + sigma * noise``: for k-diffusion style samplers."""
        ...


StepCallback = Callable[[int, int, "torch.Tensor"], "torch.Tensor"]
"""``callback(step, timestep, latents)``, after each step, gives the latents to go on with: the very tensor that it was
handed, or another one, if the user has replaced them."""


@runtime_checkable
class Sampler(Protocol):
    """Turns noisy latents into clean ones by asking the denoiser.

    A sampler for models that were distilled to one or a few steps (consistency models, one-step restoration) says so by
    an attribute ``distilled = True``: it may use fewer evaluations than it is given, and its result is the model's
    estimate instead of a sample of the data's distribution.

    A sampler may also have an attribute ``defaults``: settings that replace the model's defaults, unless a user gives
    others, for instance ``{"num_inference_steps": 4, "guidance_scale": 1.0}``.
    """

    def sample(
        self,
        denoiser: Denoiser,
        latents: torch.Tensor,
        *,
        num_inference_steps: int,
        generators: Sequence[torch.Generator],
        callback: StepCallback | None = None,
    ) -> torch.Tensor:
        """Sample.

        Args:
            denoiser: The model.
            latents: B C h w at the noise level of ``denoiser.start_timestep``.
            num_inference_steps: The most model evaluations. The sampler uses at least half of them (or half of the
                number of timesteps, if there are fewer).
            generators: One for each image, on the CPU, for samplers that add noise: the result for image i depends
                only on its latents and ``generators[i]``.
            callback: Called after each step, the last time with the result. The sampler goes on with the latents that
                it gives: they are others if the user has replaced them.

        Returns:
            Clean latents, B C h w, in the dtype and on the device of ``latents``.
        """
        ...
