"""XPSR's U-Net: that of Stable Diffusion, with decoder layers that also attend to the ControlNet's residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import ModelMixin as ModelMixin  # diffusers looks for it here to load a saved pipeline
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from xpsr_sdk.models.added_conditioning import Added, with_added
from xpsr_sdk.models.blocks import run_down, run_mid, run_up
from xpsr_sdk.models.fusion import FusionConfig, LoadsFusions, add_fusions, init_fusions


class XPSRUNet(LoadsFusions, UNet2DConditionModel):
    """Stable Diffusion's U-Net with pixel attention in every decoder layer (arXiv 2403.05049, section 3.2).

    Args:
        fusion: The fusion for the low-level prompt, ``"name"`` or ``{"name": ..., <options>}``. None: XPSR's own.
        up_use_lowlevel_prompt: Whether up blocks have fusions (one value for all blocks, or one for each).
        mid_use_lowlevel_prompt: Whether the middle block has a fusion.
        down_use_lowlevel_prompt: Whether down blocks have fusions.
        pixel_attention: Whether up blocks have pixel attention (one value for all blocks, or one for each). With large
            latents, it costs more time than everything else.
        unet_config: The base model's U-Net config.
    """

    def __init__(
        self,
        *,
        fusion: FusionConfig = None,
        up_use_lowlevel_prompt: bool | Sequence[bool] = False,
        mid_use_lowlevel_prompt: bool = False,
        down_use_lowlevel_prompt: bool = False,
        pixel_attention: bool | Sequence[bool] = True,
        **unet_config: Any,
    ) -> None:
        super().__init__(**unet_config)
        if isinstance(up_use_lowlevel_prompt, bool):
            up_use_lowlevel_prompt = [up_use_lowlevel_prompt] * len(self.up_blocks)
        if isinstance(pixel_attention, bool):
            pixel_attention = [pixel_attention] * len(self.up_blocks)
        self.register_to_config(
            fusion=fusion,
            up_use_lowlevel_prompt=list(up_use_lowlevel_prompt),
            mid_use_lowlevel_prompt=mid_use_lowlevel_prompt,
            down_use_lowlevel_prompt=down_use_lowlevel_prompt,
            pixel_attention=list(pixel_attention),
        )
        for i, block in enumerate(self.down_blocks):
            if down_use_lowlevel_prompt:
                add_fusions(block, f"down_blocks.{i}", fusion)
        if mid_use_lowlevel_prompt:
            add_fusions(self.mid_block, "mid_block", fusion)
        for i, block in enumerate(self.up_blocks):
            if up_use_lowlevel_prompt[i]:
                add_fusions(block, f"up_blocks.{i}", fusion)
            if pixel_attention[i]:
                block.pixel_attentions = nn.ModuleList(self._pixel_attentions(i))

    def _pixel_attentions(self, level: int) -> list[Transformer2DModel]:
        """The pixel attentions of up block ``level``, one for each layer. Each attends to the residual of its skip.

        A pixel attention is one transformer layer, however deep the text attention of its level is.
        """
        config = self.config
        count = len(config.block_out_channels)

        def of_level(value: Any) -> Any:
            return value[count - 1 - level] if isinstance(value, (list, tuple)) else value

        heads = of_level(config.num_attention_heads or config.attention_head_dim)
        layers: list[Transformer2DModel] = []
        for resnet in self.up_blocks[level].resnets:
            # The input of a layer is the output of the layer before, concatenated with the skip connection.
            previous = layers[-1].config.in_channels if layers else self._width_before(level)
            layers.append(
                Transformer2DModel(
                    num_attention_heads=heads,
                    attention_head_dim=resnet.out_channels // heads,
                    in_channels=resnet.out_channels,
                    cross_attention_dim=resnet.in_channels - previous,
                    norm_num_groups=config.norm_num_groups,
                    use_linear_projection=config.use_linear_projection,
                    only_cross_attention=of_level(config.only_cross_attention),
                    upcast_attention=config.upcast_attention,
                )
            )
        return layers

    def _width_before(self, level: int) -> int:
        channels = self.config.block_out_channels
        return int(channels[-1] if level == 0 else channels[len(channels) - level])

    @classmethod
    def from_base(cls, base: UNet2DConditionModel, **options: Any) -> XPSRUNet:
        """A fresh XPSR U-Net with the weights of a base model. ``options`` are those of the constructor."""
        config = {k: v for k, v in base.config.items() if k in cls.init_keys(cls)}
        unet = cls(**{**config, **options})
        unet.load_state_dict(base.state_dict(), strict=False)
        init_fusions(unet)
        return unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        lowlevel_encoder_hidden_states: Tensor | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        return_dict: bool = True,
        deep_features: Tensor | None = None,
        return_deep_features: bool = False,
        added_cond_kwargs: Added | None = None,
    ) -> UNet2DConditionOutput | tuple[Tensor, ...]:
        """Predict the noise, the velocity or the clean latents, depending on the model's prediction type.

        Args:
            sample: Noisy latents, B C h w.
            timestep: One for all images, or B.
            encoder_hidden_states: High-level text, B T D.
            lowlevel_encoder_hidden_states: Low-level text, B T D. Only fusions read it.
            down_block_additional_residuals: Scaled residuals of the ControlNet, one for each skip connection. None: the
                U-Net runs alone.
            mid_block_additional_residual: The scaled residual of the ControlNet for the middle block.
            return_dict: Whether to wrap the result like diffusers.
            deep_features: The input of the last decoder block from an evaluation at a near timestep. Then only the
                first encoder block and the last decoder block run (DeepCache, arXiv 2312.00858).
            return_deep_features: Whether to return those features as well. The result is then always a tuple.
            added_cond_kwargs: What the network takes besides the text, see ``xpsr_sdk.Conditioning``.

        Returns:
            The prediction, B C h w.
        """
        high, low, residuals = encoder_hidden_states, lowlevel_encoder_hidden_states, down_block_additional_residuals
        temb = self.time_embedding(self.get_time_embed(sample=sample, timestep=timestep))
        temb = with_added(self, temb, high, added_cond_kwargs)
        x = self.conv_in(sample)
        skips = [x]
        for block in list(self.down_blocks) if deep_features is None else list(self.down_blocks)[:1]:
            x, more = run_down(block, x, temb, high, low)
            skips += more
        if deep_features is None:
            x = run_mid(self.mid_block, x, temb, high, low)
            if residuals is not None:
                assert mid_block_additional_residual is not None, "the residual of the middle block is missing"
                x = x + mid_block_additional_residual
        else:
            skips = skips[: len(self.up_blocks[-1].resnets)]
        if residuals is not None:
            residuals = residuals[: len(skips)]
            skips = [skip + residual for skip, residual in zip(skips, residuals, strict=True)]

        for block in list(self.up_blocks)[:-1] if deep_features is None else ():
            x, skips = self._decode(block, x, temb, skips, residuals, high, low)
        deep_features = x if deep_features is None else deep_features
        x, _ = self._decode(self.up_blocks[-1], deep_features, temb, skips, residuals, high, low)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        if return_deep_features:
            return x, deep_features
        return UNet2DConditionOutput(sample=x) if return_dict else (x,)

    def _decode(
        self,
        block: Any,
        x: Tensor,
        temb: Tensor,
        skips: list[Tensor],
        residuals: Sequence[Tensor] | None,
        high: Tensor,
        low: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run a decoder block. Returns its features and the remaining skip connections."""
        n = len(block.resnets)
        of_block = None if residuals is None else residuals[len(skips) - n : len(skips)]
        here, skips = skips[-n:], skips[:-n]
        size = (skips[-1].shape[-2], skips[-1].shape[-1]) if skips else None
        return run_up(block, x, temb, here, of_block, high, low, size), skips
