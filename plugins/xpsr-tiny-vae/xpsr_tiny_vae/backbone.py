"""Stable Diffusion whose autoencoder is replaced by a tiny one that shares its latents (TAESD).

A tiny autoencoder is distilled from the large one: a few convolutions instead of a deep network with attention, at the
cost of some fine detail. Source: https://github.com/madebyollin/taesd, in diffusers ``AutoencoderTiny``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from xpsr_sdk import CheckpointError
from xpsr_sdk.toolkit import StableDiffusion, check_loaded, one_line, read_json


class TinyVAEStableDiffusion(StableDiffusion):
    """Stable Diffusion 1.x or 2.x, but for its autoencoder. See ``xpsr_sdk.Backbone``."""

    class Config(StableDiffusion.Config):
        """Which autoencoder, and what Stable Diffusion's backbone takes."""

        autoencoder: str = Field(
            "madebyollin/taesd",
            min_length=1,
            description="Folder or name on the hub of a diffusers AutoencoderTiny; it must share the model's latents.",
        )

    config: Any

    def load_autoencoder(self, folder: Path, dtype: torch.dtype) -> Any:
        """The chosen autoencoder. A saved pipeline holds a copy, in ``folder``, that stands in where it is gone.

        Raises:
            CheckpointError: It is not there, is damaged, of another class or for other latents.
        """
        replaced = read_json(folder / "config.json")
        try:
            tiny = _read(self.config.autoencoder, dtype)
        except CheckpointError as error:
            if replaced.get("_class_name") != AutoencoderTiny.__name__:
                raise
            warnings.warn(f"{error} The copy in {folder} is used.", stacklevel=2)
            return _read(str(folder), dtype)
        theirs, ours = replaced.get("latent_channels"), tiny.config.latent_channels
        if theirs != ours:
            raise CheckpointError(
                f"The tiny autoencoder {self.config.autoencoder!r} has {ours} channels of latents, and the one that it "
                f"replaces, {folder}, has {theirs}: name one that was made for this model."
            )
        return tiny

    def encode(self, image: Tensor, upscaled: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Latents, B C h w, of ``image`` (B 3 H W in [-1, 1]). Nothing is drawn: ``generators`` is not needed here."""
        latents: Tensor = self.vae.encode(image.to(self.vae.dtype)).latents * self.vae.config.scaling_factor
        return latents


def _read(name: str, dtype: torch.dtype) -> Any:
    """An ``AutoencoderTiny`` of a folder or the hub; pickled weights are refused."""
    local = Path(name).is_dir()
    if local and (found := read_json(Path(name, "config.json")).get("_class_name")) != AutoencoderTiny.__name__:
        raise CheckpointError(f"The autoencoder in {name} is a {found}; an {AutoencoderTiny.__name__} is needed.")
    try:
        model, found = AutoencoderTiny.from_pretrained(
            name, torch_dtype=dtype, local_files_only=local, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        where = "read" if local else "had: it is neither a folder here nor on the hub"
        raise CheckpointError(f"The tiny autoencoder {name!r} cannot be {where} ({one_line(error)}).") from error
    check_loaded(found, f"The tiny autoencoder {name!r}")  # diffusers would fill what is missing at random
    return model.eval()
