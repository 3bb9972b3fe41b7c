"""The networks that a photo goes through during one call."""

from __future__ import annotations

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
        text_encoder_parked: Whether the text encoder was moved to host memory, until there are prompts to encode.
    """

    feature_bytes: dict[Any, int] = field(default_factory=dict)
    text_encoder_parked: bool = False


@dataclass(frozen=True)
class Networks:
    """The networks of a pipeline, where they compute, and how they are executed.

    Attributes:
        upscaler: Enlarges photos to the size at which they are restored.
        unet: Predicts the noise. None: there is no diffusion model, and the upscaler's image is the result.
        controlnet: Conditions the U-Net on the input.
        vae: The autoencoder.
        text_encoder: Encodes prompts.
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
    text_encoder: Any
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

    def park_text_encoder(self) -> bool:
        """Move the text encoder to host memory, until there are prompts to encode.

        Returns:
            Whether it was moved. It is not moved if it is there already, or if offloading handles it.
        """
        encoder = self.text_encoder
        if self.memory.text_encoder_parked or not isinstance(encoder, nn.Module) or is_offloaded(encoder):
            return False
        self.memory.text_encoder_parked = bool(encoder.device == self.device)
        if self.memory.text_encoder_parked:
            encoder.to("cpu")
        return self.memory.text_encoder_parked

    def fetch_text_encoder(self) -> None:
        """Move the text encoder back to the device, if it was parked."""
        if self.memory.text_encoder_parked:
            self.text_encoder.to(self.device)
            self.memory.text_encoder_parked = False
