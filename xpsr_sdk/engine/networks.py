"""The networks that a photo goes through during one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from xpsr_sdk.config import ExecutionConfig, ModelDefaults
from xpsr_sdk.contracts import Backbone, Upscaler
from xpsr_sdk.engine.execution import Optimizations
from xpsr_sdk.library_internals import is_offloaded
from xpsr_sdk.models.schedule import NoiseSchedule

COMPILED_SIDE = 128
"""For compiled networks, photos and tiles are padded to multiples of this many pixels, so that few shapes occur."""


@dataclass
class MemoryState:
    """What a pipeline remembers about memory from one call to the next.

    Attributes:
        feature_bytes: Bytes of the features in a forward pass, for each network, precision and size.
        parked_text_encoders: Those that were moved to host memory, until there are prompts to encode.
    """

    feature_bytes: dict[Any, int] = field(default_factory=dict)
    parked_text_encoders: list[nn.Module] = field(default_factory=list)


@dataclass(frozen=True)
class Networks:
    """The networks of a pipeline, where they compute, and how they are executed.

    Attributes:
        upscaler: Enlarges photos to the size at which they are restored.
        unet: Predicts the noise. None: there is no diffusion model, and the upscaler's image is the result.
        controlnet: Conditions the U-Net on the input.
        vae: The autoencoder.
        text_encoders: They encode prompts.
        scheduler: The base model's diffusers scheduler, for its noise schedule.
        backbone: Encodes and decodes with the autoencoder and the text encoder.
        defaults: The model's own settings.
        device: Where the networks compute.
        dtype: Precision of the U-Net, the ControlNet and the upscaler.
        execution: Compilation and offloading.
        optimizations: What is computed once instead of at every step.
        memory: What earlier calls found out about memory.
    """

    upscaler: Upscaler
    unet: Any
    controlnet: Any
    vae: Any
    text_encoders: Sequence[Any]
    scheduler: Any
    backbone: Backbone
    defaults: ModelDefaults
    device: torch.device
    dtype: torch.dtype
    execution: ExecutionConfig
    optimizations: Optimizations
    memory: MemoryState

    @property
    def stride(self) -> int:
        """Pixels per latent, in each direction."""
        return int(self.backbone.stride)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the model."""
        return NoiseSchedule(self.scheduler)

    def padded(self, side: int) -> int:
        """A side in pixels, rounded up to whole latents, or to multiples of ``COMPILED_SIDE`` if compiled."""
        multiple = COMPILED_SIDE if self.execution.compile else self.stride
        return -(-side // multiple) * multiple

    def park_text_encoders(self) -> bool:
        """Move the text encoders to host memory, until there are prompts to encode.

        Returns:
            Whether any was moved. Those stay that are there already, or that offloading handles.
        """
        parked = self.memory.parked_text_encoders
        moved = [
            encoder
            for encoder in self.text_encoders
            if isinstance(encoder, nn.Module) and not is_offloaded(encoder) and encoder.device == self.device
            if not any(encoder is other for other in parked)
        ]
        for encoder in moved:
            encoder.to("cpu")
        parked += moved
        return bool(moved)

    def fetch_text_encoders(self) -> None:
        """Move the text encoders back to the device, if they were parked."""
        while self.memory.parked_text_encoders:
            self.memory.parked_text_encoders.pop().to(self.device)
