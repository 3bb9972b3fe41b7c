"""The contract of backbones: the versions of Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Conditioning:
    """Encoded text, and what else the networks are told.

    Attributes:
        embeddings: B T D.
        added: What the networks take besides the embeddings, by its name in diffusers' ``added_cond_kwargs``: for SDXL
            ``text_embeds``, B P (pooled text), and ``time_ids``, B 6 (sizes and crop). The networks get that of the
            high-level prompt.
    """

    embeddings: torch.Tensor
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)


PARTS_OF_BACKBONE = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "vae", "scheduler")
"""The attributes of a backbone that a pipeline holds and saves."""


def parts_of(backbone: Backbone) -> dict[str, Any]:
    """The parts of a backbone that a pipeline holds and saves, by their names; only those that it has."""
    found = {name: getattr(backbone, name, None) for name in PARTS_OF_BACKBONE}
    return {name: part for name, part in found.items() if part is not None}


def text_encoders_of(backbone: Backbone) -> dict[str, Any]:
    """The text encoders of a backbone, by their names."""
    return {name: part for name, part in parts_of(backbone).items() if name.startswith("text_encoder")}


class Backbone(Protocol):
    """A version of Stable Diffusion: all of it that does not belong to XPSR.

    Built as ``Class(config)``, which must be cheap; ``load`` reads the weights and sets the attributes below. A model
    with two text encoders also has ``tokenizer_2`` and ``text_encoder_2``. ``Pipeline.from_pretrained`` sets these
    parts itself and never calls ``load``: everything else must be computed from them, for instance in properties.
    """

    tokenizer: Any
    text_encoder: Any
    """A ``torch.nn.Module``."""
    vae: Any
    """A ``diffusers.ModelMixin``."""
    scheduler: Any
    """The model's own diffusers scheduler: the noise schedule."""

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        ...

    @property
    def stride(self) -> int:
        """How many pixels wide and high one latent is."""
        ...

    @property
    def text_width(self) -> int:
        """D of the text embeddings."""
        ...

    def load(self, folder: Path, dtype: torch.dtype, from_scratch: bool = False) -> None:
        """Read everything but the U-Net from ``folder``; ``from_scratch``: with random weights in the text encoder.

        Raises:
            CheckpointError: A part is missing or damaged.
        """
        ...

    def encode_text(
        self, texts: Sequence[str], *, long_prompts: Literal["cut", "chunks"] = "cut", weighted: bool = False
    ) -> Conditioning:
        """Encode texts, all to the same T. The SDK only passes the options if they differ from their defaults.

        Args:
            texts: B texts.
            long_prompts: ``cut``: a text that is too long for the text encoder is cut, with a warning. ``chunks``: it
                is encoded in as many parts as needed, and their embeddings are joined along T.
            weighted: Whether brackets set weights, see ``xpsr_sdk.prompts.weights``.
        """
        ...

    def encode(
        self, image: torch.Tensor, upscaled: torch.Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> torch.Tensor:
        """Latents of an image.

        Args:
            image: B 3 H W in [-1, 1].
            upscaled: The photo as the upscaler enlarged it, B 3 H W in [0, 1].
            generators: One for each image, to sample from the distribution of the latents. None: its mean is used.

        Returns:
            B C h w, scaled to about unit variance.
        """
        ...

    def decode(self, latents: torch.Tensor, upscaled: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents to an image, B 3 H W in [-1, 1]; ``upscaled`` is the photo, in [0, 1] and float32."""
        ...
