"""The whole of inference: image in, prompts, text, latents, denoise, decode, colour, image out."""

from __future__ import annotations

import gc
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import pad

from xpsr_sdk.config import (
    SPEEDS,
    Component,
    EngineConfig,
    RestoreConfig,
    backbone_of,
    load_config,
    read_defaults,
)
from xpsr_sdk.contracts import Backbone, PromptProvider, Prompts, Sampler, StepCallback
from xpsr_sdk.data.photo import LoadedPhoto, Photo, load_photo
from xpsr_sdk.engine.clock import Clock
from xpsr_sdk.engine.color import correct_color
from xpsr_sdk.engine.denoiser import GuidedDenoiser
from xpsr_sdk.engine.memory import is_out_of_memory
from xpsr_sdk.engine.packing import packed_weights
from xpsr_sdk.engine.plan import COMPILED_SIDE, MemoryPlan, plan_memory
from xpsr_sdk.engine.regions import Canvas, Region, enlarge, is_flat, noise_at, plan_regions
from xpsr_sdk.engine.rows import autoencoder_in_rows
from xpsr_sdk.errors import ConfigError, ImageError
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.plugin_system.registry import default_registry
from xpsr_sdk.prompts.encode import describe_photo, encode_prompts
from xpsr_sdk.result import Plan, Result

SMALLEST = 16
"""Pixels that a photo must have in each direction."""
StepEndCallback = Callable[["Pipeline", int, int, dict[str, Any]], dict[str, Any] | None]
Progress = Callable[[int, int], None]
"""``progress(done, total)``, after each region of a photo."""


class Pipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Restores photos. A diffusers pipeline: ``to``, ``save_pretrained`` and LoRA files work as there.

    Made by ``xpsr_sdk.build_pipeline``; ``Pipeline.from_pretrained`` gives one with the default components.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"  # without the ControlNet, which takes turns with the U-Net
    _lora_loadable_modules = ("unet", "text_encoder")

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        controlnet: Any,
        scheduler: Any,
        backbone: Component | None = None,
        defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
        )
        self.register_to_config(backbone=backbone, defaults=defaults)
        self.set_progress_bar_config(disable=True)
        self.defaults = read_defaults({"defaults": defaults})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Pipeline:
        """As in diffusers, from a whole model's folder; the backbone's plug-in is imported first, as that demands."""
        index = Path(pretrained_model_name_or_path) / "model_index.json"
        if index.is_file():
            default_registry().config("backbone", backbone_of(read_json(index)))
        pipeline: Pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        pipeline.equip()
        return pipeline

    def equip(
        self,
        backbone: Backbone | None = None,
        prompt_provider: PromptProvider | None = None,
        sampler: Sampler | None = None,
        settings: RestoreConfig | None = None,
        engine: EngineConfig | None = None,
    ) -> None:
        """Choose the parts that are no networks, before the first call; None: the model's own, or the default."""
        registry = default_registry()
        if backbone is None:
            parts: Any = registry.create("backbone", backbone_of(self.config))
            parts.vae, parts.scheduler = self.vae, self.scheduler
            parts.text_encoder, parts.tokenizer = self.text_encoder, self.tokenizer
            backbone = parts
        self.backbone: Any = backbone
        self.prompt_provider: PromptProvider = prompt_provider or registry.create("prompt_provider", "measured")
        self.sampler: Sampler = sampler or registry.create("sampler", self.defaults.sampler)
        self.settings = settings or RestoreConfig()
        self.measured_bytes: dict[Any, int] = {}
        self._parked = False
        self.use(engine or EngineConfig())

    def use(self, engine: EngineConfig) -> None:
        """Choose how the networks are run; their results stay the same."""
        self.engine = engine
        layout = torch.channels_last if engine.channels_last else torch.contiguous_format
        for network in (self.unet, self.controlnet):
            # Shards stay as training has laid them.
            if not any(isinstance(part, FSDPModule) for part in network.modules()):
                network.to(memory_format=layout)
            network._compiled_call_impl = None
            if engine.compile:
                network.compile(mode=engine.compile, fullgraph=True)
        if isinstance(self.vae, AutoencoderKL):  # others may read their features through views
            self.vae.to(memory_format=layout)

    def __call__(
        self,
        photos: Photo | Sequence[Photo],
        *,
        latents: Tensor | None = None,
        callback: StepCallback | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Any:
        """Restore one photo, or several.

        Args:
            photos: Paths, PIL images, pictures or items; one of them or a list.
            latents: Start latents, 1 C h w, instead of noise at the start that ``fidelity`` asks for.
            callback: ``callback(step, timestep, latents)``, after each step of each region.
            callback_on_step_end: As in diffusers: ``callback_on_step_end(pipe, step, timestep, {"latents": latents})``,
                after each step; ``latents`` of the dictionary that it returns take the place of those.
            progress: ``progress(done, total)``, after each region of a photo.
            settings: Fields of ``xpsr_sdk.config.RestoreConfig``, for this call.

        Returns:
            A ``Result``, or a list of them for a list.

        Raises:
            ConfigError: A setting is unknown or out of range.
            ImageError: A photo cannot be read, or is too small.
        """
        chosen = self.resolve(settings)
        if callback_on_step_end:
            if callback:
                raise ConfigError("Give callback or callback_on_step_end, not both.")
            callback = partial(self._end_step, callback_on_step_end)
        one = isinstance(photos, (str, bytes)) or not isinstance(photos, Sequence)
        several: Any = [photos] if one else photos
        results = [
            self.restore([load_photo(photo, chosen)], [chosen], latents=latents, callback=callback, progress=progress)[
                0
            ]
            for photo in several
        ]
        return results[0] if one else results

    def _end_step(self, callback: StepEndCallback, step: int, timestep: int, latents: Tensor) -> None:
        """Call a callback of diffusers' kind; samplers go on with the tensor that they gave, so that one is changed."""
        returned = callback(self, step, timestep, {"latents": latents}) or {}
        given = returned.get("latents", latents)
        if given.shape != latents.shape:
            shapes = f"{tuple(given.shape)}, not {tuple(latents.shape)}"
            raise ConfigError(f"callback_on_step_end returned latents of shape {shapes}.")
        latents.copy_(given)

    def resolve(self, settings: Mapping[str, Any]) -> RestoreConfig:
        """The settings of a call: its own, else the pipeline's, else the model's."""
        given = {name: value for name, value in settings.items() if value is not None}
        merged = load_config(RestoreConfig, {**self.settings.model_dump(), **given}, "The call")
        speed = SPEEDS[merged.speed or "exact"]
        of_model = self.defaults.model_dump() | {
            "num_inference_steps": ceil(self.defaults.num_inference_steps * speed.steps_share),
            "guidance_interval": speed.guidance_interval,
            "reuse_interval": speed.reuse_interval,
        }
        filled = {
            name: of_model[name]
            for name in RestoreConfig.model_fields
            if name in of_model and getattr(merged, name) is None
        }
        resolved = merged.model_copy(update=filled)
        if resolved.tile is not None and resolved.tile_overlap >= resolved.tile:
            raise ConfigError(f"tile_overlap is {resolved.tile_overlap}: it must be less than tile, {resolved.tile}.")
        if 2 * resolved.region_overlap >= resolved.region:
            raise ConfigError(
                f"region_overlap is {resolved.region_overlap}: it must be less than half of region, {resolved.region}."
            )
        return resolved

    def explain(self, photo: Photo, **settings: Any) -> MemoryPlan:
        """How a photo, or the first of its regions, would be restored, and in what memory; nothing is computed.

        Raises:
            ConfigError: A setting is unknown or out of range.
            ImageError: The photo cannot be read, or is too small.
        """
        chosen = self.resolve(settings)
        target = self._target_size(load_photo(photo, chosen), chosen)
        regions = plan_regions(*target, chosen.region, chosen.region_overlap, self.stride)
        width, height = (self._padded(side) for side in regions[0].size)
        return replace(plan_memory(self, height, width, chosen, images=1), regions=len(regions))

    @torch.no_grad()
    def restore(
        self,
        photos: Sequence[LoadedPhoto],
        settings: Sequence[RestoreConfig],
        *,
        latents: Tensor | None = None,
        callback: StepCallback | None = None,
        progress: Progress | None = None,
    ) -> list[Result]:
        """Restore photos together, as one batch.

        Args:
            photos: From ``load_photo``, of one size.
            settings: Of each, resolved; they may differ in seed, prompts and colour correction alone.
            latents: Start latents, B C h w, instead of noise.
            callback: ``callback(step, timestep, latents)``, after each step of each region.
            progress: ``progress(done, total)``, after each region.

        Returns:
            A result each. When memory ran out on the way, it was tried again with less at once, and a warning says so.
        """
        clock = Clock(self._execution_device)
        with clock.stage("prompts"):
            prompts = [describe_photo(self.prompt_provider, *each) for each in zip(photos, settings, strict=True)]
        with clock.stage("text"):
            device = self._execution_device
            if self._parked:
                self.text_encoder.to(device)
                self._parked = False
            texts = [
                encode_prompts(self.backbone, said, each, device) for said, each in zip(prompts, settings, strict=True)
            ]
        # Texts of one shape make a batch; a photo without a low-level prompt does not go with those that have one.
        groups: dict[Any, dict[int, Described]] = {}
        for i, (photo, each, said, (high, low)) in enumerate(zip(photos, settings, prompts, texts, strict=True)):
            seed = secrets.randbelow(2**31) if each.seed is None else each.seed
            described = Described(photo, each, said, high, low, seed, None if latents is None else latents[i : i + 1])
            groups.setdefault((high.shape, low is not None and low.shape), {})[i] = described
        results: dict[int, Result] = {}
        try:
            for group in groups.values():
                results.update(zip(group, self._together(list(group.values()), clock, callback, progress), strict=True))
        finally:
            self.maybe_free_model_hooks()
        return [results[i] for i in range(len(photos))]

    def _together(
        self, photos: list[Described], clock: Clock, callback: StepCallback | None, progress: Progress | None
    ) -> list[Result]:
        """Restore photos as one batch or, if that does not fit into memory, as smaller ones."""
        try:
            return self._run(_Run(photos, photos[0].settings, clock, callback), progress)
        except Exception as error:
            if len(photos) == 1 or not is_out_of_memory(error):
                raise
        gc.collect()  # what the failed attempt held hangs on its traceback
        half = len(photos) // 2
        warnings.warn("Out of memory: trying again with fewer photos at a time.", stacklevel=2)
        parts = (photos[:-half], photos[-half:])
        return [result for part in parts for result in self._together(part, clock, callback, progress)]

    def _run(self, run: _Run, progress: Progress | None) -> list[Result]:
        """Restore a batch of photos region by region."""
        photos, settings = run.photos, run.settings
        width, height = self._target_size(photos[0].photo, settings)
        regions = plan_regions(width, height, settings.region, settings.region_overlap, self.stride)
        several = len(regions) > 1
        if several and photos[0].latents is not None:
            raise ConfigError(f"latents are for photos of one region, not of {len(regions)}: give a larger region.")
        canvases = [Canvas(width, height, like=each.photo.picture, on_disk=several) for each in photos]
        for done, region in enumerate(regions, start=1):
            colors, alphas = zip(*(enlarge(each.photo.picture, region, width, height) for each in photos), strict=True)
            noise = torch.cat([self._noise_of(region, each.seed) for each in photos]) if several else None
            images = self._restore_region(torch.cat(colors), run, noise).split(1)
            for each, canvas, image, alpha in zip(photos, canvases, images, alphas, strict=True):
                canvas.paste(region, image, None if alpha is None else self._restore_alpha(alpha, each, run))
            if progress:
                progress(done, len(regions))
        filled = {name: getattr(run.settings, name) for name in ("tile", "tile_overlap", "tile_batch", "vae_rows")}
        start = self._start_timestep(settings) if photos[0].latents is None else self.schedule.last
        dtype = str(self.unet.dtype).removeprefix("torch.")
        facts = (start, len(regions), run.tiles, str(self._execution_device), dtype, self.engine, len(photos))
        seconds = run.clock.seconds()
        return [
            Result(
                canvas.picture(),
                each.prompts,
                each.seed,
                Plan(each.settings.model_copy(update=filled), *facts),
                seconds,
                each.photo.path,
            )
            for each, canvas in zip(photos, canvases, strict=True)
        ]

    def _restore_region(self, color: Tensor, run: _Run, noise: Tensor | None = None) -> Tensor:
        """A region, B 3 H W in [0, 1], from the input at its size, likewise; with less and less at once if need be.

        Args:
            color: The input's region of each photo.
            run: What regions share; its settings become those that fit into memory.
            noise: Of the region's latents, B C h w; None: drawn.
        """
        height, width = color.shape[-2:]
        lr = pad(color, (0, self._padded(width) - width, 0, self._padded(height) - height), mode="replicate")
        lr = lr.to(device=self._execution_device, dtype=torch.float32)
        latents = None
        while True:
            memory = plan_memory(self, lr.shape[-2], lr.shape[-1], run.settings, len(lr))
            if memory.short and self._park_text_encoder():
                memory = plan_memory(self, lr.shape[-2], lr.shape[-1], run.settings, len(lr))
            try:
                with autoencoder_in_rows(self.vae, memory.vae_rows):
                    if latents is None:
                        latents = self._sample(lr, run, memory, noise)
                    with run.clock.stage("decode"):
                        image = self._decode(latents, lr, run.photos)
            except Exception as error:
                if not is_out_of_memory(error) or len(lr) > 1:
                    raise
                run.settings = self._smaller(memory, error, decoding=latents is not None)
            else:
                run.settings = memory.settings
                run.tiles += len(memory.tiles)
                return image[..., :height, :width]
            gc.collect()  # what the failed attempt held hangs on its traceback

    def _padded(self, side: int) -> int:
        """A side in pixels, rounded up to whole latents; for compiled code, which is made for each shape, to few."""
        multiple = COMPILED_SIDE if self.engine.compile else self.stride
        return -(-side // multiple) * multiple

    def _smaller(self, memory: MemoryPlan, error: Exception, decoding: bool) -> RestoreConfig:
        """Settings that take less memory; raises ``error`` where there are none."""
        change = memory.smaller(decoding)
        if change is None:
            raise error
        self.prompt_provider.unload()
        self._park_text_encoder()
        words = ", ".join(f"{name} {value}" for name, value in change.items())
        warnings.warn(f"Out of memory: trying again with {words}.", stacklevel=2)
        return memory.settings.model_copy(update=change)

    def _park_text_encoder(self) -> bool:
        """To host memory, until there are prompts to encode; False: it is there, or offloading takes care of it."""
        encoder = self.text_encoder
        if self._parked or not isinstance(encoder, nn.Module) or hasattr(encoder, "_hf_hook"):
            return False
        self._parked = bool(encoder.device == self._execution_device)
        if self._parked:
            encoder.to("cpu")
        return self._parked

    def _sample(self, lr: Tensor, run: _Run, memory: MemoryPlan, noise: Tensor | None) -> Tensor:
        """The latents of a region, B C h w, from the padded input, B 3 H W in [0, 1] (float32)."""
        settings = memory.settings
        given = [each.latents for each in run.photos if each.latents is not None]
        start = self.schedule.last if given else self._start_timestep(settings)
        generators = [torch.Generator().manual_seed(each.seed) for each in run.photos]
        with ExitStack() as stack:
            stack.enter_context(run.clock.stage("denoise"))
            if memory.pack_weights:
                stack.enter_context(packed_weights((self.unet, self.controlnet)))
            denoiser = self._denoiser(run.photos, lr, memory, start)
            stack.enter_context(denoiser.caching())
            mean = self._mean(denoiser, lr) if self.defaults.start == "mean" and not given else None
            latents = torch.cat(given) if given else self._start(start, lr, generators, noise, mean)
            if start >= 0:
                latents = self.sampler.sample(
                    denoiser,
                    latents,
                    num_inference_steps=int(settings.num_inference_steps or 1),
                    generators=generators,
                    callback=run.callback,
                )
            if mean is not None:  # arXiv 2107.02555: on the line between the two, none is nearer at equal realism
                latents = torch.lerp(latents, mean, float(settings.fidelity or 0))
            return latents

    def _restore_alpha(self, alpha: Tensor, photo: Described, run: _Run) -> Tensor:
        """Alpha, 1 1 H W in [0, 1], restored as a gray picture, as faithfully as the model can; flat parts stay."""
        flat = is_flat(alpha)
        if run.settings.alpha == "resize" or bool(flat.all()):
            return alpha
        faithful = {"fidelity": 1.0, "color": "none"}
        alone = replace(photo, settings=photo.settings.model_copy(update=faithful), latents=None)
        of_alpha = replace(run, photos=[alone], settings=run.settings.model_copy(update=faithful))
        restored = self._restore_region(alpha.expand(-1, 3, -1, -1), of_alpha)
        restored = restored.mean(1, keepdim=True).to(alpha)
        nearly = (restored - restored.round()).abs() < 0.02  # what overshoots at an edge would be a veil beside it
        return torch.where(flat, alpha, torch.where(nearly, restored.round(), restored))

    def _noise_of(self, region: Region, seed: int) -> Tensor:
        """The noise of a region's latents."""
        height, width = (-(-side // self.stride) for side in reversed(region.size))
        top, left = region.top // self.stride, region.left // self.stride
        return noise_at(seed, self.unet.config.in_channels, top, left, height, width)

    @property
    def stride(self) -> int:
        """Pixels a latent, in each direction."""
        return int(self.backbone.stride)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the model."""
        return NoiseSchedule(self.scheduler)

    def _target_size(self, photo: LoadedPhoto, settings: RestoreConfig) -> tuple[int, int]:
        """Width and height of the result."""
        width, height = photo.picture.size
        if min(width, height) < SMALLEST:
            name = photo.picture.name
            raise ImageError(f"{name} is {width}x{height}: photos need at least {SMALLEST} pixels in each direction.")
        return round(width * settings.scale), round(height * settings.scale)

    def _denoiser(self, photos: Sequence[Described], lr: Tensor, memory: MemoryPlan, start: int) -> GuidedDenoiser:
        settings = memory.settings
        lows = [photo.low for photo in photos if photo.low is not None]
        return GuidedDenoiser(
            self.unet,
            self.controlnet,
            high=torch.cat([photo.high for photo in photos], dim=1),
            low=torch.cat(lows, dim=1) if lows else None,
            condition=lr.to(self.unet.dtype),
            scheduler=self.scheduler,
            tiles=memory.tiles,
            start_timestep=start,
            guidance_scale=float(settings.guidance_scale or 0),
            conditioning_scale=settings.conditioning_scale,
            tile_batch=settings.tile_batch or 1,
            guidance_interval=settings.guidance_interval or (0, 1),
            reuse_interval=settings.reuse_interval or 1,
            engine=self.engine,
        )

    def _start_timestep(self, settings: RestoreConfig) -> int:
        """Where sampling begins. -1: nowhere, the start is decoded."""
        noise = 1 - float(settings.fidelity or 0)
        if self.defaults.start == "mean" and noise:
            noise = 1  # there, fidelity blends
        return round(noise * self.defaults.noisiest_start * (self.schedule.last + 1)) - 1

    def _mean(self, denoiser: GuidedDenoiser, lr: Tensor) -> Tensor:
        """The estimate of the mean of all sharp photos: at the last timestep from zeros, as in training."""
        height, width = (side // self.stride for side in lr.shape[-2:])
        shape = len(lr), self.unet.config.in_channels, height, width
        zeros = torch.zeros(shape, device=lr.device, dtype=self.unet.dtype)
        mean = denoiser.clean(zeros, self.schedule.last).to(zeros)  # under autocast it comes in half precision
        denoiser.restart()  # sampling asks at other timesteps
        return mean

    def _start(
        self,
        timestep: int,
        lr: Tensor,
        generators: Sequence[torch.Generator],
        noise: Tensor | None,
        mean: Tensor | None,
    ) -> Tensor:
        """Latents at the noise of a timestep: those of the mean or, without one, of the input."""
        clean = mean
        if clean is None:
            lr = lr.to(self.unet.dtype)
            clean = self.backbone.encode(2 * lr - 1, lr, list(generators)).to(lr)
        if timestep < 0:
            return clean
        if noise is None:  # each image draws from its own generator: its noise is the same in whatever batch
            noise = torch.cat([torch.randn((1, *clean.shape[1:]), generator=generator) for generator in generators])
        return self.schedule.add_noise(clean, noise.to(clean), timestep)

    def _decode(self, latents: Tensor, lr: Tensor, photos: Sequence[Described]) -> Tensor:
        """The images, B 3 H W in [0, 1], with their colours corrected."""
        image = (self.backbone.decode(latents, lr.to(latents)).float() + 1) / 2
        corrected = []
        for of_one, reference, photo in zip(image.split(1), lr.split(1), photos, strict=True):
            # Rounded (to 8 bits) before the colours are corrected, as the published code does: adain may amplify.
            most = photo.photo.picture.most
            rounded = (of_one.clamp(0, 1) * most).round() / most
            corrected.append(correct_color(rounded, reference, photo.settings.color or "none"))
        return torch.cat(corrected)


@dataclass(frozen=True)
class Described:
    """A photo on its way to the networks.

    Attributes:
        photo: Its pixels.
        settings: Its own, resolved.
        prompts: What it was described as.
        high: The high-level prompt encoded, G 1 T D: negative then positive with guidance, else positive alone.
        low: The low-level prompt likewise, or None.
        seed: Of the noise.
        latents: Start latents, 1 C h w, instead of noise.
    """

    photo: LoadedPhoto
    settings: RestoreConfig
    prompts: Prompts
    high: Tensor
    low: Tensor | None
    seed: int
    latents: Tensor | None


@dataclass
class _Run:
    """What the regions of photos that are restored together share.

    Attributes:
        photos: Of one size.
        settings: Of all of them, but for what is each one's own; they take less once memory has run out.
        clock: Where stages are timed.
        callback: Called after each step.
        tiles: How many tiles there were so far.
    """

    photos: Sequence[Described]
    settings: RestoreConfig
    clock: Clock
    callback: StepCallback | None
    tiles: int = 0
