"""XPSR's ControlNet: a fusion at every attention site, and heads for the Degradation-Free Constraint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers import ModelMixin as ModelMixin  # diffusers looks for it here to load a saved pipeline
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, cat, nn
from torch.nn.functional import silu

from xpsr_sdk.errors import ConfigError
from xpsr_sdk.models.added_conditioning import Added, with_added
from xpsr_sdk.models.blocks import run_down, run_mid
from xpsr_sdk.models.fusion import FusionConfig, LoadsFusions, add_fusions, init_fusions


class ConditioningEncoder(ControlNetConditioningEmbedding):
    """Embeds the conditioning image. Each level halves the size, and has an RGB head.

    Args:
        conditioning_embedding_channels: Channels of the embedding.
        conditioning_channels: Channels of the image.
        block_out_channels: Channels of each level. The first level has full size, so n levels give a stride of
            2^(n-1).
        rgb_heads: Whether to build the heads.
    """

    def __init__(
        self,
        conditioning_embedding_channels: int,
        conditioning_channels: int,
        block_out_channels: Sequence[int],
        rgb_heads: bool,
    ) -> None:
        super().__init__(conditioning_embedding_channels, conditioning_channels, tuple(block_out_channels))
        widths = block_out_channels[1:] if rgb_heads else ()
        self.to_rgbs = nn.ModuleList(nn.Conv2d(width, 3, kernel_size=3, padding=1) for width in widths)

    def forward(self, conditioning: Tensor, heads: bool = False) -> tuple[Tensor, list[Tensor]]:
        """The embedding of an image and, with ``heads``, the RGB predictions at strides 2, 4, 8, ..."""
        x = silu(self.conv_in(conditioning))
        rgbs = []
        for i, block in enumerate(self.blocks):
            x = silu(block(x))
            if heads and i % 2:
                rgbs.append(self.to_rgbs[i // 2](x))
        return self.conv_out(x), rgbs


def condition_of(controlnet: Any, upscaled: Tensor, resized: Tensor) -> Tensor:
    """The conditioning image of a ControlNet, B C H W in [0, 1].

    Args:
        controlnet: The ControlNet. With 3 conditioning channels it gets the upscaler's image, with 6 also the photo.
        upscaled: The photo, enlarged by the upscaler, B 3 H W in [0, 1].
        resized: The photo, enlarged bicubically, of the same shape.
    """
    return cat([upscaled, resized], dim=1) if controlnet.config.conditioning_channels == 6 else upscaled


@dataclass
class XPSRControlNetOutput:
    """The output of the ControlNet.

    Attributes:
        down_block_res_samples: Scaled residuals, one for each skip connection of the U-Net.
        mid_block_res_sample: The scaled residual of the middle block.
        rgbs: With heads: images predicted by the conditioning encoder, B 3 H/2^k W/2^k, in [-1, 1].
        latents: With heads: latents predicted from every unscaled residual; that of the middle block is the last.
    """

    down_block_res_samples: list[Tensor]
    mid_block_res_sample: Tensor
    rgbs: list[Tensor]
    latents: list[Tensor]


class XPSRControlNet(LoadsFusions, ControlNetModel):
    """ControlNet of XPSR (arXiv 2403.05049): a copy of the U-Net's encoder that reads both prompts.

    Args:
        fusion: Name of the fusion or ``{"name": ..., <options>}``. None: XPSR's own.
        use_lowlevel_prompt: Whether the attention sites have fusions.
        return_rgbs: Whether the conditioning encoder has RGB heads.
        use_latent_pred: Whether there are heads that predict latents from the residuals.
        use_rrdb: Must be False. The published code has another encoder, but no published checkpoint uses it.
        controlnet_config: The config of a diffusers ControlNet.
    """

    def __init__(
        self,
        *,
        fusion: FusionConfig = None,
        use_lowlevel_prompt: bool = True,
        return_rgbs: bool = True,
        use_latent_pred: bool = True,
        use_rrdb: bool = False,
        **controlnet_config: Any,
    ) -> None:
        if use_rrdb:
            raise ConfigError("use_rrdb is true in the ControlNet's config: only false is supported.")
        super().__init__(**controlnet_config)
        self.register_to_config(
            fusion=fusion,
            use_lowlevel_prompt=use_lowlevel_prompt,
            return_rgbs=return_rgbs,
            use_latent_pred=use_latent_pred,
            use_rrdb=use_rrdb,
        )
        config = self.config
        self.controlnet_cond_embedding = ConditioningEncoder(
            config.block_out_channels[0],
            config.conditioning_channels,
            config.conditioning_embedding_out_channels,
            rgb_heads=return_rgbs,
        )
        if use_lowlevel_prompt:
            for i, block in enumerate(self.down_blocks):
                add_fusions(block, f"down_blocks.{i}", fusion)
            add_fusions(self.mid_block, "mid_block", fusion)
        if use_latent_pred:

            def head(width: int) -> nn.Sequential:
                return nn.Sequential(nn.Conv2d(width, config.in_channels, kernel_size=3, padding=1))

            self.conv_degradation = nn.ModuleList(head(c.out_channels) for c in self.controlnet_down_blocks)
            self.conv_degradation_mid = head(self.controlnet_mid_block.out_channels)

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        conditioning_embedding_out_channels: Sequence[int] = (16, 32, 96, 256),
        fusion: FusionConfig = None,
        conditioning_channels: int = 3,
    ) -> XPSRControlNet:
        """A fresh ControlNet: a copy of a base U-Net's encoder, with zero convolutions and initialised fusions."""
        keys = cls.init_keys(ControlNetModel)
        config = {k: v for k, v in unet.config.items() if k in keys and not k.startswith("conditioning")}
        controlnet = cls(
            **config,
            fusion=fusion,
            conditioning_channels=conditioning_channels,
            conditioning_embedding_out_channels=tuple(conditioning_embedding_out_channels),
        )
        encoder = {
            name: tensor
            for name, tensor in unet.state_dict().items()
            if name.startswith(("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block."))
        }
        # If the U-Net has trained fusions, they are left out: init_fusions starts from the attentions.
        own = {name: tensor for name, tensor in encoder.items() if ".fusions." not in name}
        controlnet.load_state_dict(own, strict=False)
        init_fusions(controlnet)
        return controlnet

    def open_zero_convolutions(self) -> None:
        """Give the zero convolutions random weights. A model with random weights then learns from the first step on."""
        zero = [self.controlnet_cond_embedding.conv_out, *self.controlnet_down_blocks, self.controlnet_mid_block]
        for convolution in zero:
            convolution.reset_parameters()

    @apply_forward_hook  # type: ignore[untyped-decorator]  # so that offloading loads the weights before
    def embed_condition(self, image: Tensor) -> Tensor:
        """The embedding of the conditioning image, B 3 H W in [0, 1]. It is the same for all timesteps."""
        embedding, _ = self.controlnet_cond_embedding(self._channel_order(image))
        out: Tensor = embedding
        return out

    def _channel_order(self, image: Tensor) -> Tensor:
        if self.config.controlnet_conditioning_channel_order != "bgr":
            return image
        return torch.cat([each.flip(1) for each in image.split(3, dim=1)], dim=1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor | None = None,
        lowlevel_encoder_hidden_states: Tensor | None = None,
        conditioning_scale: float = 1.0,
        condition_embedding: Tensor | None = None,
        heads: bool = False,
        added_cond_kwargs: Added | None = None,
    ) -> XPSRControlNetOutput:
        """Compute the residuals for the U-Net.

        Args:
            sample: Noisy latents, B C h w.
            timestep: One for all images, or B.
            encoder_hidden_states: High-level text, B T D.
            controlnet_cond: The low-resolution image, resized to the target size, B 3 H W in [0, 1].
            lowlevel_encoder_hidden_states: Low-level text, B T D, or None.
            conditioning_scale: Factor on all residuals.
            condition_embedding: The result of ``embed_condition``, instead of ``controlnet_cond``.
            heads: Whether to compute the predictions for the Degradation-Free Constraint, which training needs.
            added_cond_kwargs: What the network takes besides the text, see ``xpsr_sdk.Conditioning``.
        """
        high, low = encoder_hidden_states, lowlevel_encoder_hidden_states
        rgbs: list[Tensor] = []
        if condition_embedding is None:
            assert controlnet_cond is not None, "either controlnet_cond or condition_embedding is needed"
            condition_embedding, rgbs = self.controlnet_cond_embedding(self._channel_order(controlnet_cond), heads)
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
        temb = self.time_embedding(self.time_proj(timesteps).to(dtype=sample.dtype))
        temb = with_added(self, temb, high, added_cond_kwargs)

        x = self.conv_in(sample) + condition_embedding
        features = [x]
        for block in self.down_blocks:
            x, more = run_down(block, x, temb, high, low)
            features += more
        x = run_mid(self.mid_block, x, temb, high, low)

        residuals = [conv(feature) for conv, feature in zip(self.controlnet_down_blocks, features, strict=True)]
        residuals.append(self.controlnet_mid_block(x))
        latents = []
        if heads:
            all_heads = [*self.conv_degradation, self.conv_degradation_mid]
            latents = [head(residual) for head, residual in zip(all_heads, residuals, strict=True)]
        *down, mid = [residual * conditioning_scale for residual in residuals]
        return XPSRControlNetOutput(down, mid, rgbs, latents)
