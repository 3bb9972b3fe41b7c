"""The model as a sampler sees it: one call, with guidance, tiles and batches inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xpsr_sdk.engine.tiling import Tile, gaussian_weights
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.models.unet import XPSRUNet


class GuidedDenoiser:
    """Implements ``xpsr_sdk.Denoiser``.

    The conditioning image is embedded once a tile, when the denoiser is made. With guidance, negative and positive
    prompts are two halves of one batch.

    Args:
        unet: Predicts.
        controlnet: Conditions.
        high: High-level text, G B T D: G = 2 (negative, positive) with guidance, 1 (positive) without.
        low: Low-level text likewise, or None.
        condition: The resized input, B 3 H W in [0, 1].
        scheduler: The base model's diffusers scheduler, for its noise schedule.
        tiles: From ``xpsr_sdk.engine.tiling.plan_tiles``.
        start_timestep: Where sampling begins.
        guidance_scale: w of classifier-free guidance (arXiv 2207.12598): ``negative + w (positive - negative)``.
        conditioning_scale: Factor on the ControlNet's residuals.
        tile_batch: Tiles a forward pass.
    """

    def __init__(
        self,
        unet: XPSRUNet,
        controlnet: XPSRControlNet,
        *,
        high: Tensor,
        low: Tensor | None,
        condition: Tensor,
        scheduler: Any,
        tiles: Sequence[Tile],
        start_timestep: int,
        guidance_scale: float,
        conditioning_scale: float,
        tile_batch: int,
    ) -> None:
        self.scheduler = scheduler
        self._schedule = NoiseSchedule(scheduler)
        self.prediction_type = self._schedule.prediction_type
        self.alphas_cumprod = self._schedule.alphas_cumprod
        self.start_timestep = start_timestep
        self._unet, self._controlnet = unet, controlnet
        self._high, self._low = high, low
        self._guidance_scale, self._conditioning_scale = guidance_scale, conditioning_scale
        self._batches = [list(tiles[i : i + tile_batch]) for i in range(0, len(tiles), tile_batch)]
        stride = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)
        self._embeddings = [
            torch.cat([controlnet.embed_condition(tile.of(condition, stride)) for tile in batch])
            for batch in self._batches
        ]
        first = tiles[0]
        self._weights = gaussian_weights(first.bottom - first.top, first.right - first.left).float()

    def predict(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """The raw model prediction, after guidance; ``x_t``: B C h w."""
        if len(self._batches) == 1 and len(self._batches[0]) == 1:
            return self._predict_tiles(x_t, t, self._embeddings[0], count=1)
        weights = self._weights.to(x_t.device)
        total = torch.zeros(x_t.shape, dtype=torch.float32, device=x_t.device)
        covered = torch.zeros(x_t.shape[-2:], dtype=torch.float32, device=x_t.device)
        for batch, embedding in zip(self._batches, self._embeddings, strict=True):
            x = torch.cat([tile.of(x_t) for tile in batch])
            parts = self._predict_tiles(x, t, embedding, count=len(batch)).chunk(len(batch))
            for tile, part in zip(batch, parts, strict=True):
                tile.of(total).add_(part * weights)
                tile.of(covered).add_(weights)
        return (total / covered).to(x_t.dtype)

    def _predict_tiles(self, x: Tensor, t: Tensor | int, embedding: Tensor, count: int) -> Tensor:
        """Predict for ``count`` tiles of every image: a batch of count * B, tile by tile."""
        groups = self._high.shape[0]

        def batched(text: Tensor | None) -> Tensor | None:
            return None if text is None else text.repeat(1, count, 1, 1).flatten(0, 1)

        high, low = batched(self._high), batched(self._low)
        x, embedding = x.repeat(groups, 1, 1, 1), embedding.repeat(groups, 1, 1, 1)
        residuals = self._controlnet(
            x,
            t,
            high,
            lowlevel_encoder_hidden_states=low,
            conditioning_scale=self._conditioning_scale,
            condition_embedding=embedding,
        )
        prediction: Tensor = self._unet(
            x, t, high, low, residuals.down_block_res_samples, residuals.mid_block_res_sample, return_dict=False
        )[0]
        if groups == 1:
            return prediction
        negative, positive = prediction.chunk(2)
        return negative + self._guidance_scale * (positive - negative)

    def clean(self, x_t: Tensor, t: int) -> Tensor:
        """The estimate of the clean latents from ``x_t`` at timestep ``t``."""
        return self._schedule.clean(self.predict(x_t, t), x_t, t)

    def denoised(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The estimate of the clean latents from ``x = x_0 + sigma * noise``."""
        sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        t = int((sigmas - float(sigma)).abs().argmin())
        return self.clean(x / (1 + float(sigma) ** 2) ** 0.5, t)
