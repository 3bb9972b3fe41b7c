"""Plans how a photo is cut into tiles and batches so that it fits into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn

from xpsr_sdk.engine.memory import RESERVE, activation_bytes, weight_bytes
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.packing import can_pack
from xpsr_sdk.engine.tiling import Tile, plan_tiles
from xpsr_sdk.engine.upscaler_plan import UpscalerPlan, size_in_words
from xpsr_sdk.hardware.devices import free_memory
from xpsr_sdk.library_internals import on_meta
from xpsr_sdk.models.added_conditioning import empty_added
from xpsr_sdk.resolved import ResolvedSettings

Network = Callable[..., Any]

SMALLEST_TILE = 128
"""The smallest side of a tile in pixels when memory runs out. A smaller tile shows too little of the picture."""
ROWS = 128
"""Rows that the autoencoder computes at a time if the whole image does not fit."""
MAX_TILE_BATCH = {"cpu": 4}
"""More tiles in one pass do not make this device faster. Other devices: ``MAX_TILE_BATCH_ELSEWHERE``."""
MAX_TILE_BATCH_ELSEWHERE = 16
LIBRARY_BYTES = {"cpu": 2**28}
"""Bytes on this device that libraries use: threads, temporary memory, and what the allocator keeps."""


@dataclass(frozen=True)
class MemoryPlan:
    """What is computed at once, and how much memory this needs.

    Attributes:
        settings: The settings of the call, with ``tile_batch`` and ``vae_rows`` filled in.
        tile_batch: How many tiles go through the networks in one pass.
        vae_rows: Rows that the autoencoder computes at a time. None: all.
        tiles: The tiles, in latents.
        stride: Pixels per latent.
        device: Where the networks compute.
        dtype: Their precision.
        free_bytes: Memory that could be used when the plan was made.
        weight_bytes: Bytes of the weights of each network.
        feature_bytes: Bytes of the features in one pass of ControlNet and U-Net. 0 if there is only one tile, or if
            ``tile_batch`` was given, because the number is not needed then.
        decoder_bytes: Bytes of the features when the whole image is decoded at once. 0 if that is not known.
        pack_weights: Whether wide convolutions keep a second copy of their weights, see ``xpsr_sdk.engine.packing``.
        limited_by_memory: Whether more would be computed at once if there were more memory.
        regions: The number of regions that the photo is cut into. Each of them uses this plan.
        result: Width and height of the result in pixels, where the plan is that of a whole photo.
        upscaling: What the upscaler needs, likewise. It does not compute at the same time as the other networks.
    """

    settings: ResolvedSettings
    tile_batch: int
    vae_rows: int | None
    tiles: list[Tile]
    stride: int
    device: torch.device
    dtype: torch.dtype
    free_bytes: int
    weight_bytes: dict[str, int]
    feature_bytes: int
    decoder_bytes: int
    pack_weights: bool
    limited_by_memory: bool
    regions: int = 1
    result: tuple[int, int] | None = None
    upscaling: UpscalerPlan | None = None

    @property
    def tile(self) -> int:
        """The side of the largest tile in pixels, but at most the setting ``tile``."""
        first = self.tiles[0]
        side = max(first.bottom - first.top, first.right - first.left) * self.stride
        return min(self.settings.tile, side)

    def reduced_settings(self, decoding: bool) -> dict[str, int] | None:
        """Settings that need less memory, for decoding or for sampling. None: nothing is left to reduce."""
        change: dict[str, int] = {}
        if self.decoder_bytes and (self.vae_rows or ROWS * 2) > 16:
            change["vae_rows"] = (self.vae_rows or ROWS * 2) // 2
        if decoding:
            return change or None
        if self.tile_batch > 1:
            change["tile_batch"] = self.tile_batch // 2
        elif self.tile > SMALLEST_TILE:
            change["tile"] = max(self.tile // 2, SMALLEST_TILE)
            change["tile_overlap"] = min(self.settings.tile_overlap, change["tile"] // 4)
        return change or None

    def __str__(self) -> str:
        tile = self.tiles[0]
        weights = ", ".join(f"{name} {size_in_words(size)}" for name, size in self.weight_bytes.items())
        rows = "the whole image" if self.vae_rows is None else f"{self.vae_rows} rows at a time"
        decoding = f" ({size_in_words(self.decoder_bytes)} as a whole)" if self.decoder_bytes else ""
        features = f" ({size_in_words(self.feature_bytes)} of features)" if self.feature_bytes else ""
        regions = f" in each of {self.regions} regions" if self.regions > 1 else ""
        first = {} if self.result is None else {"Result": f"{self.result[0]} x {self.result[1]} pixels"}
        first |= {} if self.upscaling is None else {"Upscaler": str(self.upscaling)}
        lines = first | {
            "Device": f"{self.device}, {str(self.dtype).removeprefix('torch.')}, {size_in_words(self.free_bytes)} free",
            "Weights": f"{weights}{'; wide kernels twice' if self.pack_weights else ''}",
            "Tiles": f"{len(self.tiles)} of {tile.bottom - tile.top} x {tile.right - tile.left} latents, "
            f"{self.tile_batch} a pass{features}{regions}",
            "Autoencoder": f"{rows}{decoding}",
            "Steps": f"{self.settings.num_inference_steps}, guidance {self.settings.guidance_scale:g} in "
            f"{self.settings.guidance_interval} of the noise schedule, "
            f"deep features for {self.settings.reuse_interval} evaluations",
        }
        return "\n".join(f"{name + ':':13}{text}" for name, text in lines.items())


def plan_memory(networks: Networks, height: int, width: int, settings: ResolvedSettings, images: int) -> MemoryPlan:
    """Tiles, batch and rows for ``images`` photos of ``height`` x ``width`` output pixels."""
    device, stride = networks.device, networks.stride
    unet, controlnet = networks.unet, networks.controlnet
    tiles = plan_tiles(
        height // stride, width // stride, max(settings.tile // stride, 1), settings.tile_overlap // stride
    )
    free = max(int(RESERVE * free_memory(device)) - LIBRARY_BYTES.get(device.type, 0), 0)
    if networks.execution.offload == "model":  # each network is moved to the device as a whole
        free = max(free - weight_bytes(unet) - weight_bytes(controlnet), 0)
    features, batch, wanted = 0, min(settings.tile_batch or 1, len(tiles)), 1
    if len(tiles) > 1 and settings.tile_batch is None:
        one = _features_of_networks(networks, tiles[0], images, guided=settings.guidance_scale != 1)
        wanted = min(len(tiles), MAX_TILE_BATCH.get(device.type, MAX_TILE_BATCH_ELSEWHERE))
        batch = min(max(free // one, 1), wanted)
        features = one * batch
    whole = _features_of_autoencoder(networks, height, width, images)
    rows = settings.vae_rows or (ROWS if whole > free else None)
    # A compiler chooses the layout of weights itself.
    packing = networks.optimizations.pack_weights and not networks.execution.compile and device.type == "cpu"
    copies = sum(weight_bytes(layer) for m in (unet, controlnet) for layer in m.modules() if can_pack(layer))
    named = zip(("text_encoder", "text_encoder_2"), networks.text_encoders, strict=False)
    parts = {"vae": networks.vae, **dict(named), "unet": unet, "controlnet": controlnet}
    return MemoryPlan(
        settings=settings.model_copy(update={"tile_batch": batch, "vae_rows": rows}),
        tile_batch=batch,
        vae_rows=rows,
        tiles=tiles,
        stride=stride,
        device=device,
        dtype=networks.dtype,
        free_bytes=free,
        weight_bytes={name: weight_bytes(part) for name, part in parts.items() if weight_bytes(part)},
        feature_bytes=features,
        decoder_bytes=whole,
        pack_weights=bool(packing and copies and copies + features + whole < free),
        limited_by_memory=batch < wanted or (settings.vae_rows is None and rows is not None),
    )


def _features_of_networks(networks: Networks, tile: Tile, images: int, guided: bool) -> int:
    """Bytes of the features when one tile of each image goes through ControlNet and U-Net."""
    unet = networks.unet
    batch = images * (2 if guided else 1)
    height, width = tile.bottom - tile.top, tile.right - tile.left

    def run(predict: Network, condition: Network) -> None:
        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(batch, *shape, device="meta", dtype=unet.dtype)

        x, t = empty(unet.config.in_channels, height, width), torch.zeros((), device="meta")
        text = empty(77, unet.config.cross_attention_dim)
        embedding = empty(unet.config.block_out_channels[0], height, width)
        added: Any = {"added_cond_kwargs": empty_added(unet, batch)}
        out = condition(x, t, text, lowlevel_encoder_hidden_states=text, condition_embedding=embedding, **added)
        predict(x, t, text, text, out.down_block_res_samples, out.mid_block_res_sample, **added)

    return _measured_once(networks, (height, width, batch), run, unet, networks.controlnet)


def _features_of_autoencoder(networks: Networks, height: int, width: int, images: int) -> int:
    """Bytes of the features when whole images are decoded. 0 for an autoencoder that cannot work in rows."""
    vae = networks.vae
    if not isinstance(vae, AutoencoderKL):
        return 0
    stride = networks.stride

    def run(decoder: Network) -> None:
        shape = (images, vae.config.latent_channels, height // stride, width // stride)
        decoder(torch.empty(shape, device="meta", dtype=vae.dtype))

    return _measured_once(networks, (height, width, images), run, vae.decoder)


def _measured_once(networks: Networks, size: tuple[int, ...], run: Callable[..., None], *models: nn.Module) -> int:
    """The bytes that ``run(*models)`` needs, measured once for each size."""
    key = (*map(type, models), networks.dtype, networks.vae.dtype, *size)
    if key not in networks.memory.feature_bytes:
        stand_ins = [on_meta(model) for model in models]
        networks.memory.feature_bytes[key] = activation_bytes(lambda: run(*stand_ins), stand_ins)
    return networks.memory.feature_bytes[key]
