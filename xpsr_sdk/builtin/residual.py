"""A backbone without a trained autoencoder: latents are the difference between the image and the upscaled photo.

Encoding loses nothing, and zero latents decode to the upscaled photo, so that a small model has to learn only the
residual. ResShift (arXiv 2307.12348) diffuses a residual, too, but in the latents of an autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from xpsr_sdk.builtin.grid import without_grid
from xpsr_sdk.builtin.stable_diffusion import StableDiffusion
from xpsr_sdk.builtin.wavelet import analyse, synthesise
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.models.config_files import check_entries, check_network_config

TRANSFORMS = {"unshuffle": (pixel_unshuffle, pixel_shuffle), "wavelet": (analyse, synthesise)}
"""Functions that turn a residual into latents, and back."""


class ResidualAutoencoder(ModelMixin, ConfigMixin):
    """Turns the residual to the resized input into latents and back.

    Args:
        stride: Pixels per latent, in each direction. Latents have 3 * stride^2 channels.
        scaling_factor: Factor on the residual (of an image in [-1, 1]) that gives latents of about unit variance.
        transform: ``"unshuffle"`` rearranges blocks of pixels into channels, ``"wavelet"`` uses overlapping patterns;
            see ``xpsr_sdk.builtin.wavelet``.
        remove_grid: Whether faint patterns that repeat at each latent are removed from the decoded image. They are the
            bias of a network. Photos have no such patterns, but a decoded photo is changed a little, too.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        stride: int = 4,
        scaling_factor: float = 8.0,
        transform: Literal["unshuffle", "wavelet"] = "unshuffle",
        remove_grid: bool = False,
    ) -> None:
        super().__init__()
        # A diffusers model gets its device and dtype from its tensors, so it needs one.
        self.register_buffer("scale", torch.tensor(scaling_factor))

    def encode(self, image: Tensor, upscaled: Tensor) -> Tensor:
        """Latents of ``image`` (B 3 H W in [-1, 1]) given the upscaled photo (B 3 H W in [0, 1])."""
        to_latents, _ = TRANSFORMS[self.config.transform]
        return to_latents((image - (2 * upscaled - 1)) * self.config.scaling_factor, self.config.stride)

    def decode(self, latents: Tensor, upscaled: Tensor) -> Tensor:
        """The image, B 3 H W in [-1, 1]."""
        _, to_image = TRANSFORMS[self.config.transform]
        residual = to_image(latents, self.config.stride) / self.config.scaling_factor
        image = residual + (2 * upscaled - 1)
        return without_grid(image, self.config.stride) if self.config.remove_grid else image


class ResidualBackbone(StableDiffusion):
    """A Stable Diffusion folder whose ``vae/`` is a ``ResidualAutoencoder``. See ``xpsr_sdk.Backbone``."""

    def load_autoencoder(self, folder: Path, dtype: torch.dtype) -> Any:
        """The autoencoder that ``folder/config.json`` describes. It has no weights."""
        config = read_json(folder / "config.json")
        check_network_config(config, folder / "config.json")
        check_entries(ResidualAutoencoder, config, folder / "config.json")
        autoencoder = ResidualAutoencoder.from_config(config).eval()
        return torch.nn.Module.to(autoencoder, dtype)  # diffusers' own ``to`` warns at any dtype

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return 3 * self.stride**2

    @property
    def stride(self) -> int:
        """Pixels per latent, in each direction."""
        return int(self.vae.config.stride)

    def encode(self, image: Tensor, upscaled: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Latents, B C h w. ``generators`` is not used, since no random numbers are drawn."""
        latents: Tensor = self.vae.encode(image, upscaled)
        return latents

    def decode(self, latents: Tensor, upscaled: Tensor) -> Tensor:
        """The image, B 3 H W in [-1, 1]."""
        image: Tensor = self.vae.decode(latents, upscaled)
        return image
