"""Stable Diffusion XL (arXiv 2307.01952) as a backbone, from a folder in the diffusers layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from xpsr_sdk.builtin.stable_diffusion import StableDiffusion
from xpsr_sdk.config import LongPrompts
from xpsr_sdk.contracts import Conditioning

Pixels = Annotated[int, Field(ge=0, le=2**16)]


class StableDiffusionXL(StableDiffusion):
    """Two tokenizers and text encoders, autoencoder and noise schedule of SDXL. See ``xpsr_sdk.Backbone``.

    The networks are told the sizes of a picture that SDXL was trained on, for photos and tiles of all sizes: a smaller
    original size would mean a blurry picture to SDXL.
    """

    class Config(StableDiffusion.Config):
        """What the networks are told about sizes, in pixels: height, width; top, left."""

        original_size: tuple[Pixels, Pixels] = Field(
            (1024, 1024), description="Height and width of the picture before it was resized, as the networks are told."
        )
        crop: tuple[Pixels, Pixels] = Field(
            (0, 0),
            description="Top and left of the crop, as the networks are told. (0, 0): the subject is not cut off.",
        )
        target_size: tuple[Pixels, Pixels] = Field(
            (1024, 1024), description="Height and width of the picture, as the networks are told."
        )

    text_encoder_classes: ClassVar[dict[str, Any]] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }

    @property
    def text_width(self) -> int:
        """D of the text embeddings: the widths of both text encoders."""
        return int(self.text_encoder.config.hidden_size + self.text_encoder_2.config.hidden_size)

    def encode_text(
        self, texts: Sequence[str], *, long_prompts: LongPrompts = "cut", weighted: bool = False
    ) -> Conditioning:
        """Encode each text with both text encoders, whose last layer but one gives the embeddings, B T D.

        ``added`` holds the pooled text of the second encoder (of the first window, and without weights), and the sizes.
        See ``StableDiffusion.encode_text`` for long texts and weights.
        """
        embeddings, pooled = [], None
        for tokenizer, encoder in (
            (self.tokenizer, self.text_encoder),
            (self.tokenizer_2, self.text_encoder_2),
        ):
            windows = self.windows(tokenizer, texts, long_prompts, weighted)
            out = encoder(windows.ids_for(encoder), output_hidden_states=True)
            embeddings.append(windows.joined(out.hidden_states[-2]))
            pooled = out[0].reshape(len(texts), -1, out[0].shape[-1])[:, 0]
        config: Any = self.config
        sizes = torch.tensor([*config.original_size, *config.crop, *config.target_size])
        joined = torch.cat(embeddings, dim=-1)
        assert pooled is not None
        return Conditioning(joined, {"text_embeds": pooled, "time_ids": sizes.to(joined).repeat(len(texts), 1)})
