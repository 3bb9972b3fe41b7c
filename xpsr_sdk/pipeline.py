"""The whole of inference: image in, prompts, text, latents, denoise, decode, colour, image out."""

from __future__ import annotations

import secrets
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from xpsr_sdk.config import (
    ColorCorrection,
    Component,
    Guidance,
    RestoreConfig,
    Settings,
    Share,
    Steps,
    TileSide,
    load_config,
)
from xpsr_sdk.contracts import Backbone, Item, Level, PromptProvider, Prompts, Sampler, StepCallback
from xpsr_sdk.data.images import read_picture, sha256_of, write_picture
from xpsr_sdk.data.picture import Picture, from_pil
from xpsr_sdk.engine.color import correct_color
from xpsr_sdk.engine.denoiser import GuidedDenoiser
from xpsr_sdk.engine.regions import Canvas, Region, enlarge, is_flat, noise_at, plan_regions
from xpsr_sdk.engine.tiling import Tile, plan_tiles
from xpsr_sdk.errors import ConfigError, ImageError
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.registry import default_registry

SMALLEST = 16
"""Pixels that a photo must have in each direction."""
LARGEST_VIEW = 2048
"""Side of the largest square that a prompt provider is shown a whole photo of."""

Photo = str | PathLike[str] | Image.Image | Item | Picture
Progress = Callable[[int, int], None]
"""``progress(done, total)``, after each region of a photo."""


class ModelDefaults(Settings):
    """What a model was made for; stands in its ``model_index.json`` under ``defaults``. Its own defaults are XPSR's."""

    num_inference_steps: Steps = Field(20, description="Model evaluations.")
    guidance_scale: Guidance = Field(5.0, description="Classifier-free guidance; 1 is none.")
    fidelity: Share = Field(0.0, description="1: closest to the input; 0: most realistic.")
    start: Literal["lr", "mean"] = Field(
        "lr",
        description="What noise is added to before sampling: the input's latents (lr), or the model's estimate, "
        "from pure noise, of the mean of all sharp photos (mean).",
    )
    noisiest_start: Share = Field(
        1.0, description="Share of the noise schedule at which sampling starts for fidelity 0."
    )
    color: ColorCorrection = Field("adain", description="How the colours of the input are kept.")
    tile: TileSide = Field(512, description="Side of a tile in output pixels; larger photos are restored in tiles.")
    sampler: Component = Field("unipc", description="Sampler.")
    positive: str = Field(
        "clean, high-resolution, 8k, high quality, clear text.", description="Words added to every high-level prompt."
    )
    negative: str = Field(
        "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed.",
        description="Negative high-level prompt.",
    )
    low_negative: str = Field("high resolution, best quality, clear", description="Negative low-level prompt.")


def read_defaults(index: Mapping[str, Any]) -> ModelDefaults:
    """The defaults in a ``model_index.json``."""
    return load_config(ModelDefaults, index.get("defaults") or {}, "model_index.json, defaults")


@dataclass(frozen=True)
class Plan:
    """How a photo was restored. The same pipeline, settings and seed give the same bits on the same machine.

    Model, sampler and prompt provider are those of the pipeline; seed and prompts stand in the result.

    Attributes:
        settings: Those of the call, with the pipeline's and the model's filled in.
        start_timestep: Where sampling began; -1: not at all, the start itself was decoded.
        regions: How many regions.
        tiles: How many tiles, in all regions.
        device: Where it ran.
        dtype: In which precision.
    """

    settings: RestoreConfig
    start_timestep: int
    regions: int
    tiles: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Result:
    """A restored photo.

    Attributes:
        picture: Exactly ``scale`` times the input's size, with the input's channels, bit depth, profile and metadata.
        prompts: What the photo was described as, without added words, and by whom.
        seed: Of the noise.
        plan: How it was made.
        timings: Seconds of each stage, and ``total``.
        path: Where the input came from, if from a file.
    """

    picture: Picture
    prompts: Prompts
    seed: int
    plan: Plan
    timings: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = None

    @cached_property
    def image(self) -> Image.Image:
        """The picture in 8 bits, in mode RGB, RGBA, L or LA as the input had them."""
        return self.picture.to_pil()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the picture, whole or not at all; the suffix says the type.

        Raises:
            ImageError: The suffix is not supported, or the place cannot be written to.
        """
        write_picture(self.picture, Path(path))


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
            default_registry().config("backbone", read_json(index).get("backbone") or "stable-diffusion")
        pipeline: Pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        pipeline.equip()
        return pipeline

    def equip(
        self,
        backbone: Backbone | None = None,
        prompt_provider: PromptProvider | None = None,
        sampler: Sampler | None = None,
        settings: RestoreConfig | None = None,
    ) -> None:
        """Choose the parts that are no networks, before the first call; None: the model's own, or the default."""
        registry = default_registry()
        if backbone is None:
            parts: Any = registry.create("backbone", self.config.backbone or "stable-diffusion")
            parts.vae, parts.scheduler = self.vae, self.scheduler
            parts.text_encoder, parts.tokenizer = self.text_encoder, self.tokenizer
            backbone = parts
        self.backbone: Any = backbone
        self.prompt_provider: PromptProvider = prompt_provider or registry.create("prompt_provider", "measured")
        self.sampler: Sampler = sampler or registry.create("sampler", self.defaults.sampler)
        self.settings = settings or RestoreConfig()

    def __call__(
        self,
        photos: Photo | Sequence[Photo],
        *,
        latents: Tensor | None = None,
        callback: StepCallback | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Any:
        """Restore one photo, or several.

        Args:
            photos: Paths, PIL images, pictures or items; one of them or a list.
            latents: Start latents, 1 C h w, instead of noise at the start that ``fidelity`` asks for.
            callback: ``callback(step, timestep, latents)``, after each step of each region.
            progress: ``progress(done, total)``, after each region of a photo.
            settings: Fields of ``xpsr_sdk.config.RestoreConfig``, for this call.

        Returns:
            A ``Result``, or a list of them for a list.

        Raises:
            ConfigError: A setting is unknown or out of range.
            ImageError: A photo cannot be read, or is too small.
        """
        chosen = self.resolve(settings)
        one = isinstance(photos, (str, bytes)) or not isinstance(photos, Sequence)
        several: Any = [photos] if one else photos
        results = [self._restore(load_photo(photo, chosen), chosen, latents, callback, progress) for photo in several]
        self.maybe_free_model_hooks()
        return results[0] if one else results

    def resolve(self, settings: Mapping[str, Any]) -> RestoreConfig:
        """The settings of a call: its own, else the pipeline's, else the model's."""
        given = {name: value for name, value in settings.items() if value is not None}
        merged = load_config(RestoreConfig, {**self.settings.model_dump(), **given}, "The call")
        of_model = {
            name: getattr(self.defaults, name)
            for name in ModelDefaults.model_fields
            if name in RestoreConfig.model_fields and getattr(merged, name) is None
        }
        resolved = merged.model_copy(update=of_model)
        if resolved.tile is not None and resolved.tile_overlap >= resolved.tile:
            raise ConfigError(f"tile_overlap is {resolved.tile_overlap}: it must be less than tile, {resolved.tile}.")
        if 2 * resolved.region_overlap >= resolved.region:
            raise ConfigError(
                f"region_overlap is {resolved.region_overlap}: it must be less than half of region, {resolved.region}."
            )
        return resolved

    @torch.no_grad()
    def _restore(
        self,
        photo: LoadedPhoto,
        settings: RestoreConfig,
        latents: Tensor | None,
        callback: StepCallback | None,
        progress: Progress | None,
    ) -> Result:
        clock = Clock()
        seed = secrets.randbelow(2**31) if settings.seed is None else settings.seed
        with clock.stage("prompts"):
            prompts = self._describe(photo, settings)
        with clock.stage("text"):
            text = self._encode_prompts(prompts, settings)
        width, height = self._target_size(photo, settings)
        regions = plan_regions(width, height, settings.region, settings.region_overlap, self.stride)
        if latents is not None and len(regions) > 1:
            raise ConfigError(f"latents are for photos of one region, not of {len(regions)}: give a larger region.")
        canvas = Canvas(width, height, like=photo.picture, on_disk=len(regions) > 1)
        run = _Run(settings, seed, *text, photo.picture.most, clock, latents, callback)
        for done, region in enumerate(regions, start=1):
            lr, alpha = enlarge(photo.picture, region, width, height)
            noise = self._noise_of(region, seed) if len(regions) > 1 else None
            restored = self._restore_region(lr, run, noise)
            canvas.paste(region, restored, None if alpha is None else self._restore_alpha(alpha, run))
            if progress:
                progress(done, len(regions))
        dtype = str(self.unet.dtype).removeprefix("torch.")
        start = self._start_timestep(settings) if latents is None else self.schedule.last
        plan = Plan(settings, start, len(regions), run.tiles, str(self._execution_device), dtype)
        return Result(canvas.picture(), prompts, seed, plan, clock.seconds(), photo.path)

    def _restore_region(self, color: Tensor, run: _Run, noise: Tensor | None = None) -> Tensor:
        """A region, 1 3 H W in [0, 1], from the input at its size, likewise; ``noise``: of its latents, None: drawn."""
        settings, clock = run.settings, run.clock
        height, width = color.shape[-2:]
        lr = pad(color, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        lr = lr.to(device=self._execution_device, dtype=self.unet.dtype)
        tiles = self._plan_tiles(lr, settings)
        run.tiles += len(tiles)
        start = self.schedule.last if run.latents is not None else self._start_timestep(settings)
        generator = torch.Generator().manual_seed(run.seed)
        with clock.stage("denoise"):
            denoiser = self._denoiser(run.high, run.low, lr, tiles, start, settings)
            latents = self._start(denoiser, lr, generator, noise) if run.latents is None else run.latents
            if start >= 0:
                latents = self.sampler.sample(
                    denoiser,
                    latents,
                    num_inference_steps=int(settings.num_inference_steps or 1),
                    generators=[generator],
                    callback=run.callback,
                )
        with clock.stage("decode"):
            return self._decode(latents, lr, settings, run.most)[..., :height, :width]

    def _restore_alpha(self, alpha: Tensor, run: _Run) -> Tensor:
        """Alpha, 1 1 H W in [0, 1], restored as a gray picture, as faithfully as the model can; flat parts stay."""
        flat = is_flat(alpha)
        if run.settings.alpha == "resize" or bool(flat.all()):
            return alpha
        settings = run.settings.model_copy(update={"fidelity": 1.0, "color": "none"})
        restored = self._restore_region(alpha.expand(-1, 3, -1, -1), replace(run, settings=settings, latents=None))
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

    def _describe(self, photo: LoadedPhoto, settings: RestoreConfig) -> Prompts:
        """The user's own words where given, else the provider's; a provider that fails costs its words only."""
        given: dict[Level, str | None] = {"high": settings.prompt, "low": settings.low_prompt}
        missing = [level for level, text in given.items() if text is None]
        said = self._ask(photo, missing)
        for reason in dict.fromkeys(said.errors.values()):
            levels = " and ".join(f"{level}-level" for level, why in said.errors.items() if why == reason)
            warnings.warn(f"No {levels} prompt for {photo.picture.name}: {reason}", stacklevel=2)
        source = {level: said.source.get(level, "") if text is None else "user" for level, text in given.items()}
        texts = {level: text if text is not None else getattr(said, level) for level, text in given.items()}
        known = {level: who for level, who in source.items() if texts[level] is not None}
        return Prompts(texts["high"], texts["low"], known, said.errors)

    def _ask(self, photo: LoadedPhoto, missing: Collection[Level]) -> Prompts:
        """What the provider says of each level; its failures are among the errors of what it said."""
        answers = []
        for levels, item in photo.views(missing):
            try:
                (said,) = self.prompt_provider.describe([item], levels)
                if not isinstance(said, Prompts):
                    raise TypeError(f"the provider gave a {type(said).__name__}, not Prompts")
            except ImageError:
                raise  # of the photo, which is decoded when it is looked at
            except Exception as error:  # a captioner must not stop a restoration
                said = Prompts(errors=dict.fromkeys(levels, f"{type(error).__name__}: {error}"))
            answers.append(said)
        return Prompts(
            next((said.high for said in answers if said.high is not None), None),
            next((said.low for said in answers if said.low is not None), None),
            {level: who for said in answers for level, who in said.source.items()},
            {level: why for said in answers for level, why in said.errors.items()},
        )

    def _encode_prompts(self, prompts: Prompts, settings: RestoreConfig) -> tuple[Tensor, Tensor | None]:
        """High- and low-level embeddings, G 1 T D: negative then positive with guidance, else positive alone."""
        guided = settings.guidance_scale != 1
        positive = join_prompt(prompts.high, settings.positive or "")
        highs = [settings.negative or "", positive] if guided else [positive]
        high = self.backbone.encode_text(highs).embeddings[:, None]
        if prompts.low is None:
            return high, None
        lows = [settings.low_negative or "", prompts.low] if guided else [prompts.low]
        return high, self.backbone.encode_text(lows).embeddings[:, None]

    def _target_size(self, photo: LoadedPhoto, settings: RestoreConfig) -> tuple[int, int]:
        """Width and height of the result."""
        width, height = photo.picture.size
        if min(width, height) < SMALLEST:
            name = photo.picture.name
            raise ImageError(f"{name} is {width}x{height}: photos need at least {SMALLEST} pixels in each direction.")
        return round(width * settings.scale), round(height * settings.scale)

    def _plan_tiles(self, lr: Tensor, settings: RestoreConfig) -> list[Tile]:
        """The tiles, in latents, of an input of this size."""
        tile = None if settings.tile is None else max(settings.tile // self.stride, 1)
        height, width = (side // self.stride for side in lr.shape[-2:])
        return plan_tiles(height, width, tile, settings.tile_overlap // self.stride)

    def _denoiser(
        self, high: Tensor, low: Tensor | None, lr: Tensor, tiles: list[Tile], start: int, settings: RestoreConfig
    ) -> GuidedDenoiser:
        return GuidedDenoiser(
            self.unet,
            self.controlnet,
            high=high,
            low=low,
            condition=lr,
            scheduler=self.scheduler,
            tiles=tiles,
            start_timestep=start,
            guidance_scale=float(settings.guidance_scale or 0),
            conditioning_scale=settings.conditioning_scale,
            tile_batch=settings.tile_batch,
        )

    def _start_timestep(self, settings: RestoreConfig) -> int:
        """Where sampling begins: the more fidelity, the less noise. -1: no noise at all."""
        share = (1 - float(settings.fidelity or 0)) * self.defaults.noisiest_start
        return round(share * (self.schedule.last + 1)) - 1

    def _start(self, denoiser: GuidedDenoiser, lr: Tensor, generator: torch.Generator, noise: Tensor | None) -> Tensor:
        """Latents at the noise of the denoiser's start: the input's own, or the estimate of the mean, with noise."""
        shape = (1, self.unet.config.in_channels, lr.shape[-2] // self.stride, lr.shape[-1] // self.stride)
        if self.defaults.start == "mean":
            clean = denoiser.clean(torch.zeros(shape).to(lr), self.schedule.last)  # as it was trained to be asked
        else:
            clean = self.backbone.encode(2 * lr - 1, lr, [generator])
        if denoiser.start_timestep < 0:
            return clean
        noise = torch.randn(shape, generator=generator) if noise is None else noise
        return self.schedule.add_noise(clean, noise.to(lr), denoiser.start_timestep)

    def _decode(self, latents: Tensor, lr: Tensor, settings: RestoreConfig, most: int) -> Tensor:
        """The image, 1 3 H W in [0, 1], with its colours corrected; ``most``: the highest level of the photo."""
        image = (self.backbone.decode(latents, lr) + 1) / 2
        # Rounded (to 8 bits) before the colours are corrected, as the published code does: adain may amplify.
        image = (image.float().clamp(0, 1) * most).round() / most
        return correct_color(image, lr.float(), settings.color or "none")


class Clock:
    """Adds up the seconds of named stages."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        began = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - began

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, and in total."""
        return {**self._seconds, "total": time.perf_counter() - self._began}


@dataclass
class _Run:
    """What the regions of a photo share.

    Attributes:
        settings: Of the call.
        seed: Of the noise.
        high: High-level embeddings, G 1 T D.
        low: Low-level embeddings likewise, or None.
        most: The highest level of the photo.
        clock: Where stages are timed.
        latents: Given start latents.
        callback: Called after each step.
        tiles: How many tiles there were so far.
    """

    settings: RestoreConfig
    seed: int
    high: Tensor
    low: Tensor | None
    most: int
    clock: Clock
    latents: Tensor | None
    callback: StepCallback | None
    tiles: int = 0


@dataclass(frozen=True)
class LoadedPhoto:
    """A photo whose header has been read.

    Attributes:
        picture: Its pixels, which may be decoded later, and what goes with them.
        path: Where it came from, if from a file.
        sha256: Hex digest of the file's bytes, if from a file.
    """

    picture: Picture
    path: Path | None = None
    sha256: str | None = None

    def views(self, levels: Collection[Level]) -> Iterator[tuple[list[Level], Item]]:
        """What a prompt provider is shown for each of the levels.

        That is the whole photo; of one that is too large for that, a small copy tells the content, and the middle, in
        full resolution, the quality.
        """
        width, height = self.picture.size
        if width * height <= LARGEST_VIEW**2:
            if levels:
                yield list(levels), self._item(self.picture)
            return
        if "high" in levels:
            yield ["high"], self._item(self.picture.shrunk(LARGEST_VIEW))
        if "low" in levels:
            across, down = min(width, LARGEST_VIEW), min(height, LARGEST_VIEW)
            middle = self.picture.cropped((width - across) // 2, (height - down) // 2, across, down)
            yield ["low"], self._item(middle)

    def _item(self, view: Picture) -> Item:
        return Item(view.to_rgb(), self.path, self.sha256)


def load_photo(photo: Photo, settings: RestoreConfig) -> LoadedPhoto:
    """Read a photo's file, or take what it is already, with its profile and metadata treated as the settings say."""
    if isinstance(photo, (str, PathLike)):
        path = Path(photo)
        loaded = LoadedPhoto(read_picture(path, settings.max_megapixels), path, sha256_of(path))
    elif isinstance(photo, Item):
        picture = from_pil(photo.image, str(photo.path or "the image"))
        loaded = LoadedPhoto(picture, photo.path, photo.sha256)
    elif isinstance(photo, Image.Image):
        loaded = LoadedPhoto(from_pil(photo))
    elif isinstance(photo, Picture):
        loaded = LoadedPhoto(photo)
    else:
        raise ConfigError(f"A photo is a path, a PIL image or an Item, not a {type(photo).__name__}.")
    picture = loaded.picture.in_srgb() if settings.profile == "convert" else loaded.picture
    return replace(loaded, picture=replace(picture, metadata={}) if settings.metadata == "strip" else picture)


def join_prompt(description: str | None, words: str) -> str:
    """A description with added words behind it, as two sentences."""
    description = (description or "").strip()
    if description and words and description[-1] not in ".!?":
        description += "."
    return f"{description} {words}".strip()
