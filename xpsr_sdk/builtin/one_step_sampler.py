"""The sampler of models that were distilled to restore a photo in one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xpsr_sdk.contracts import Denoiser, Options, StepCallback
from xpsr_sdk.models.schedule import NoiseSchedule


class OneStepSampler:
    """Evaluates the model once: its estimate of the clean latents is the result.

    Such a model is trained with ``[one_step]``, and starts from the latents of the photo itself (``start = "photo"``),
    as in OSEDiff (arXiv 2406.08177). See ``xpsr_sdk.Sampler`` for the contract.
    """

    class Config(Options):
        """It has no options."""

    distilled = True
    defaults: Mapping[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0}

    def __init__(self, config: Config | None = None) -> None:
        pass

    def sample(
        self,
        denoiser: Denoiser,
        latents: Tensor,
        *,
        num_inference_steps: int,
        generators: Sequence[torch.Generator],
        callback: StepCallback | None = None,
    ) -> Tensor:
        """See ``xpsr_sdk.Sampler``."""
        t = denoiser.start_timestep
        prediction = denoiser.predict(latents, t)
        clean = NoiseSchedule(denoiser.scheduler).clean(prediction, latents, t).to(latents)
        return callback(0, t, clean) if callback else clean
