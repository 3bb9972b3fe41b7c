"""The denoiser that samplers call. It hides guidance, tiles, batches and caches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xpsr_sdk.engine.execution import ALL, Optimizations
from xpsr_sdk.engine.text_cache import cached_text
from xpsr_sdk.engine.tiling import Tile, gaussian_weights
from xpsr_sdk.engine.watching import tell
from xpsr_sdk.models.added_conditioning import Added
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.plugin_system.answers import blamed_on_parts

LEAST_SIGNAL = 2.0**-24
"""The least signal power, as in diffusers: a noise schedule that ends in pure noise would have an infinite sigma."""


@dataclass
class DeepFeatures:
    """Features of a full evaluation that the next evaluations reuse.

    Attributes:
        features: The input of the U-Net's last decoder block.
        residuals: The residuals of the ControlNet that this block reads.
        groups: How many prompts the batch has: 2 (negative and positive) with guidance, else 1.
    """

    features: Tensor
    residuals: list[Tensor]
    groups: int

    def of(self, groups: int) -> DeepFeatures:
        """The features for ``groups`` prompts: only the positive half, if guidance has ended in between."""
        if groups == self.groups:
            return self
        return DeepFeatures(self.features.chunk(2)[1], [residual.chunk(2)[1] for residual in self.residuals], groups)


@dataclass
class TileBatch:
    """Tiles that go through the networks together."""

    tiles: Sequence[Tile]
    condition: Tensor
    """Their part of the input, (tiles * B) 3 H W, or its embedding."""
    count: int
    """How many of the tiles are used; the others only pad the batch."""
    deep: DeepFeatures | None = None


class WrongLatents(ValueError):
    """A sampler asks about other latents than those that it was handed."""


class GuidedDenoiser:
    """Implements ``xpsr_sdk.Denoiser``.

    With guidance, the negative and the positive prompt are the two halves of one batch.

    Args:
        unet: Predicts the noise.
        controlnet: Conditions the U-Net on the input.
        high: High-level text, G B T D: G = 2 (negative, positive) with guidance, 1 (positive) without.
        low: Low-level text of the same shape, or None.
        added: What the networks take besides the text, G B and more dimensions each.
        condition: The enlarged input, B 3 H W in [0, 1].
        scheduler: The base model's diffusers scheduler, for its noise schedule.
        tiles: The tiles, from ``xpsr_sdk.engine.tiling.plan_tiles``.
        start_timestep: The timestep at which sampling begins.
        guidance_scale: w of classifier-free guidance (arXiv 2207.12598): ``negative + w (positive - negative)``.
        conditioning_scale: Factor on the ControlNet's residuals.
        tile_batch: How many tiles go through the networks in one pass.
        guidance_interval: The lowest and the highest noise level with guidance, as shares of the noise schedule
            (arXiv 2404.07724). Outside of it, only the positive prompt is evaluated.
        reuse_interval: Every so many evaluations one is full. The others run only the outermost blocks of the U-Net,
            on the ControlNet's residuals and the deep features of the full one (arXiv 2312.00858).
        compiled: Whether the networks are compiled.
        optimizations: What is computed once, and what at every evaluation.
    """

    def __init__(
        self,
        unet: XPSRUNet,
        controlnet: XPSRControlNet,
        *,
        high: Tensor,
        low: Tensor | None,
        added: Added | None = None,
        condition: Tensor,
        scheduler: Any,
        tiles: Sequence[Tile],
        start_timestep: int,
        guidance_scale: float,
        conditioning_scale: float,
        tile_batch: int,
        guidance_interval: tuple[float, float] = (0, 1),
        reuse_interval: int = 1,
        compiled: bool = False,
        optimizations: Optimizations = ALL,
    ) -> None:
        self.scheduler = scheduler
        self._schedule = NoiseSchedule(scheduler)
        self.prediction_type = self._schedule.prediction_type
        self.alphas_cumprod = self._schedule.alphas_cumprod
        self.start_timestep = start_timestep
        self._unet, self._controlnet = unet, controlnet
        self._high, self._low, self._added = high, low, added or {}
        self._guidance_scale, self._conditioning_scale = guidance_scale, conditioning_scale
        self._guidance_interval, self._reuse_interval = guidance_interval, reuse_interval
        self._evaluations = self._told = 0
        self._compiled, self._optimizations = compiled, optimizations
        self._texts: dict[tuple[int, int], tuple[Tensor, Tensor | None, Added]] = {}
        self._text_ids: set[int] = set()
        batches = [list(tiles[i : i + tile_batch]) for i in range(0, len(tiles), tile_batch)]
        counts = [len(batch) for batch in batches]
        if self._compiled:  # code is compiled for each shape, so the last batch gets the size of the others
            batches[-1] += batches[-1][-1:] * (counts[0] - counts[-1])
        self._batches = [
            TileBatch(batch, self._condition(batch, condition), count)
            for batch, count in zip(batches, counts, strict=True)
        ]
        height, width = max(tile.bottom for tile in tiles), max(tile.right for tile in tiles)
        self._shape = (high.shape[1], int(unet.config.in_channels), height, width)
        first = tiles[0]
        self._weights = gaussian_weights(first.bottom - first.top, first.right - first.left).float()

    def _condition(self, tiles: Sequence[Tile], image: Tensor) -> Tensor:
        """The part of the image in each tile, already embedded if the embedding is cached."""
        stride = 2 ** (len(self._controlnet.config.conditioning_embedding_out_channels) - 1)
        if not self._optimizations.cache_condition:
            return torch.cat([tile.of(image, stride) for tile in tiles])
        return torch.cat([self._controlnet.embed_condition(tile.of(image, stride)) for tile in tiles])

    def caching(self) -> AbstractContextManager[None]:
        """Within the block, layers that depend on the text alone compute once."""
        if not self._optimizations.cache_text or self._compiled:  # the cache would break the compiled graph
            return nullcontext()
        return cached_text((self._unet, self._controlnet), self._text_ids, self._high.shape[-1])

    def restart(self) -> None:
        """Make the next evaluation a full one, because its timestep is far from the last."""
        self._evaluations = self._told = 0
        for batch in self._batches:
            batch.deep = None

    def predict(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """The raw model prediction, after guidance; ``x_t``: B C h w.

        Raises:
            BrokenPlugin: A fusion within the networks failed.
            WrongLatents: ``x_t`` has another shape.
        """
        found = tuple(x_t.shape) if isinstance(x_t, Tensor) else type(x_t).__name__
        if found != self._shape:
            raise WrongLatents(f"asked the denoiser about latents of shape {found}, not {self._shape}")
        with blamed_on_parts():
            return self._predict(x_t, t)

    def _predict(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        groups = self._groups(t)
        full = self._evaluations % self._reuse_interval == 0
        self._evaluations += 1
        if len(self._batches) == 1 and len(self._batches[0].tiles) == 1:
            return self._predict_tiles(x_t, t, self._batches[0], groups, full)
        weights = self._weights.to(x_t.device)
        total = torch.zeros(x_t.shape, dtype=torch.float32, device=x_t.device)
        covered = torch.zeros(x_t.shape[-2:], dtype=torch.float32, device=x_t.device)
        for batch in self._batches:
            x = torch.cat([tile.of(x_t) for tile in batch.tiles])
            parts = self._predict_tiles(x, t, batch, groups, full).chunk(len(batch.tiles))
            for tile, part in zip(batch.tiles[: batch.count], parts, strict=False):
                tile.of(total).add_(part * weights)
                tile.of(covered).add_(weights)
        return (total / covered).to(x_t.dtype)

    def _groups(self, t: Tensor | int) -> int:
        """2 if there is guidance at ``t``, else 1."""
        if len(self._high) == 1 or self._guidance_interval == (0, 1):
            return len(self._high)
        lowest, highest = self._guidance_interval
        share = float(torch.as_tensor(t).max()) / self._schedule.last
        return 2 if lowest <= share <= highest else 1

    def _predict_tiles(self, x: Tensor, t: Tensor | int, batch: TileBatch, groups: int, full: bool) -> Tensor:
        """Predict for each tile of every image: a batch of tiles * B, ordered by tile."""
        tell("denoise", self._told, len(self._batches))
        self._told += 1
        if self._compiled:  # both networks belong to one step, since the U-Net reads the ControlNet's results
            torch.compiler.cudagraph_mark_step_begin()
        x = self._in_memory_format(x.repeat(groups, 1, 1, 1))
        t = torch.as_tensor(t, device=x.device)  # a Python number would cause a compilation for each value
        high, low, added = self._text(groups, len(batch.tiles))
        full = full or batch.deep is None or batch.deep.groups < groups
        if full or batch.deep is None:
            prediction = self._evaluate(x, t, high, low, added, batch, groups)
        else:
            deep = batch.deep.of(groups)
            reused: Any = {"deep_features": deep.features, "added_cond_kwargs": added}
            prediction = self._unet(x, t, high, low, deep.residuals, return_dict=False, **reused)[0]
        if groups == 1:
            return prediction.clone() if self._compiled else prediction
        negative, positive = prediction.chunk(2)
        return negative + self._guidance_scale * (positive - negative)

    def _evaluate(
        self, x: Tensor, t: Tensor | int, high: Tensor, low: Tensor | None, added: Added, batch: TileBatch, groups: int
    ) -> Tensor:
        """A full evaluation of both networks."""
        condition = self._in_memory_format(batch.condition.repeat(groups, 1, 1, 1))
        of_condition = {"condition_embedding" if self._optimizations.cache_condition else "controlnet_cond": condition}
        residuals = self._controlnet(
            x,
            t,
            high,
            lowlevel_encoder_hidden_states=low,
            conditioning_scale=self._conditioning_scale,
            heads=not self._optimizations.skip_training_heads,
            added_cond_kwargs=added,
            **of_condition,
        )
        down, mid = residuals.down_block_res_samples, residuals.mid_block_res_sample
        keep = self._reuse_interval > 1
        options: Any = {"return_deep_features": keep, "added_cond_kwargs": added}
        out = self._unet(x, t, high, low, down, mid, return_dict=False, **options)
        if keep:
            read_last = len(self._unet.up_blocks[-1].resnets)
            # Compiled code may write its next results to the same memory, so these are copied.
            kept = [each.clone() if self._compiled else each for each in (out[1], *down[:read_last])]
            batch.deep = DeepFeatures(kept[0], kept[1:], groups)
        prediction: Tensor = out[0]
        return prediction

    def _in_memory_format(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self._optimizations.channels_last else x

    def _text(self, groups: int, count: int) -> tuple[Tensor, Tensor | None, Added]:
        """The texts, and what is added to them, for ``count`` tiles of every image.

        They are the same tensors each time, as the cache requires.
        """
        if (groups, count) not in self._texts:

            def batched(x: Tensor) -> Tensor:
                return x[-groups:].repeat(1, count, *[1] * (x.ndim - 2)).flatten(0, 1)

            high, low = batched(self._high), None if self._low is None else batched(self._low)
            self._texts[groups, count] = high, low, {name: batched(x) for name, x in self._added.items()}
            self._text_ids |= {id(high), id(low)} - {id(None)}
        return self._texts[groups, count]

    def clean(self, x_t: Tensor, t: int) -> Tensor:
        """The estimate of the clean latents from ``x_t`` at timestep ``t``."""
        return self._schedule.clean(self.predict(x_t, t), x_t, t)

    def denoised(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The estimate of the clean latents from ``x = x_0 + sigma * noise``."""
        signal = self.alphas_cumprod.clamp(min=LEAST_SIGNAL)
        sigmas = ((1 - signal) / signal).sqrt()
        distances = (sigmas - float(sigma)).abs()
        t = int((distances == distances.min()).nonzero()[-1])  # the noisiest of those that are equally near
        return self.clean(x / (1 + float(sigma) ** 2) ** 0.5, t)
