"""The pipeline: photo → prompts → text → upscale → latents → denoise → decode → colour → photo.

``Pipeline.restore`` reads like this sentence. The stages from the upscaler on are in ``xpsr_sdk.engine.restoring``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, overload

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import (
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
    TextualInversionLoaderMixin,
)
from torch import Tensor

from xpsr_sdk.config import Component, ExecutionConfig, RestoreConfig, backbone_of, read_defaults
from xpsr_sdk.contracts import PARTS_OF_BACKBONE, Backbone, PromptProvider, Prompts, Sampler, Upscaler
from xpsr_sdk.data.photo import LoadedPhoto, Photo, is_photo, load_photo
from xpsr_sdk.engine.callbacks import StepEndCallback, UserCallback, of_diffusers
from xpsr_sdk.engine.clock import Clock
from xpsr_sdk.engine.execution import ALL, Optimizations, prepare_networks
from xpsr_sdk.engine.networks import MemoryState, Networks
from xpsr_sdk.engine.plan import MemoryPlan, plan_memory
from xpsr_sdk.engine.prepared import PreparedPhoto, batches_of_one_shape
from xpsr_sdk.engine.quantized import quantize_networks
from xpsr_sdk.engine.regions import Region, plan_regions
from xpsr_sdk.engine.restoring import Progress, Restoration
from xpsr_sdk.engine.sampling import start_timestep
from xpsr_sdk.engine.upscaler_plan import plan_upscaling
from xpsr_sdk.engine.workload import Workload, explaining_lack_of_memory
from xpsr_sdk.errors import ConfigError, ImageError
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.models.find_model import find_model
from xpsr_sdk.models.loading import without_bars
from xpsr_sdk.models.plugins_file import says_what_to_install, write_plugins
from xpsr_sdk.models.pretrained import class_in_index, load_network
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.models.single_file import NOTE
from xpsr_sdk.plugin_system.answers import working_on
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.plugin_system.scope import create_part
from xpsr_sdk.prompts.encode import EncodedPrompts, describe_photo, encode_prompts
from xpsr_sdk.resolved import ResolvedSettings, resolve
from xpsr_sdk.result import Plan, Result

if TYPE_CHECKING:
    from xpsr_sdk.settings import RestoreSettings

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
"""The options of ``from_pretrained`` for downloads from the hub, as in diffusers."""

NETWORKS = ("unet", "controlnet", "vae", "text_encoder", "text_encoder_2")


def _checked_networks(folder: Path, index: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The networks of a model's folder but those that are given: diffusers would fill what is missing at random.

    Args:
        folder: The folder.
        index: Its ``model_index.json``.
        options: Those of ``from_pretrained``. What has been done for the networks here is taken out.
    """
    of_all: Any = options.get("torch_dtype") or torch.float32
    variant, device_map = options.pop("variant", None), options.pop("device_map", None)
    networks = {}
    for name in index:
        has_weights = any(any((folder / name).glob(files)) for files in ("*.safetensors", "*.bin", NOTE))
        if name not in options and has_weights:
            dtype: Any = of_all.get(name, of_all.get("default", torch.float32)) if isinstance(of_all, dict) else of_all
            cls = class_in_index(index[name], f"{folder / 'model_index.json'}, {name},")
            networks[name] = load_network(cls, folder / name, dtype, variant)
    if device_map == "balanced":  # over several devices, which only diffusers' own loading does; all is checked by now
        options |= {"device_map": device_map} | ({"variant": variant} if variant else {})
        return {}
    return {name: network.to(device_map) if device_map else network for name, network in networks.items()}


class Pipeline(DiffusionPipeline, StableDiffusionXLLoraLoaderMixin, TextualInversionLoaderMixin):
    """Restores photos. It is a diffusers pipeline, so ``to``, ``save_pretrained`` and LoRA files work as usual.

    ``xpsr_sdk.build_pipeline`` makes pipelines; ``Pipeline.from_pretrained`` makes one with the default components.
    If all networks are None, only the upscaler enlarges the photo.
    """

    # The ControlNet is left out, since it alternates with the U-Net.
    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder_2", "tokenizer_2"]
    _lora_loadable_modules = ("unet", "text_encoder", "text_encoder_2")

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
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
        )
        self.register_to_config(backbone=backbone, defaults=defaults)
        self.set_progress_bar_config(disable=True)
        self.defaults = read_defaults({"defaults": defaults})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *, registry: Registry | None = None, **kwargs: Any
    ) -> Pipeline:
        """A pipeline of a complete model, with the model's own sampler and the default prompt provider.

        Args:
            pretrained_model_name_or_path: A preset, a folder, or a model on the hub: see
                ``xpsr_sdk.find_model``.
            registry: The registry in which parts are looked up. None: the built-in and the installed plug-ins.
            kwargs: As in diffusers. Those in ``HUB_OPTIONS`` are for the download.

        Raises:
            ConfigError: There is no such model.
            CheckpointError: It has no index.
            PluginError: A part is unknown or broken.
        """
        registry = registry or default_registry()
        hub_options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder = find_model(pretrained_model_name_or_path, **hub_options)
        # The plug-in is imported first, since diffusers accepts only components whose classes are imported.
        with says_what_to_install(folder):
            index = read_json(folder / "model_index.json")
            registry.config("backbone", backbone_of(index))
        with registry.in_force(), without_bars(), says_what_to_install(folder):
            networks = _checked_networks(folder, index, kwargs)
            pipeline: Pipeline = super().from_pretrained(folder, **networks, **kwargs)
            pipeline.configure()
        return pipeline

    def configure(
        self,
        backbone: Backbone | None = None,
        prompt_provider: PromptProvider | None = None,
        sampler: Sampler | None = None,
        upscaler: Upscaler | None = None,
        settings: RestoreConfig | None = None,
        execution: ExecutionConfig | None = None,
    ) -> None:
        """Set the parts that are not networks. It must be called before the first restoration.

        None means the part that the model names, or the default, built with the registry in force.
        """
        if backbone is None and self.unet is not None:
            backbone = create_part("backbone", backbone_of(self.config))
            for name in PARTS_OF_BACKBONE:
                if (part := getattr(self, name)) is not None:
                    setattr(backbone, name, part)
        self.backbone: Any = backbone
        self.prompt_provider: PromptProvider = prompt_provider or create_part("prompt_provider", "measured")
        self.sampler: Sampler = sampler or create_part("sampler", self.defaults.sampler)
        self.upscaler: Upscaler = upscaler or create_part("upscaler", self.defaults.upscaler)
        self.upscaler_device, self.upscaler_dtype = torch.device("cpu"), torch.float32
        self.settings = settings or RestoreConfig()
        networks = (*PARTS_OF_BACKBONE, "unet", "controlnet")
        self._needed = [name for name in networks if getattr(self, name) is not None]
        self._memory = MemoryState()
        self.set_execution(execution or ExecutionConfig())

    def to(self, *args: Any, **kwargs: Any) -> Pipeline:
        """Move the networks to a device or into a dtype, as in diffusers; without a model, the upscaler."""
        super().to(*args, **kwargs)
        if self.unet is None:
            for value in (*args, *kwargs.values()):
                if isinstance(value, torch.dtype):
                    self.upscaler_dtype = value
                elif isinstance(value, str | torch.device):
                    self.upscaler_device = torch.device(value)
        return self

    def with_parts(
        self,
        *,
        prompt_provider: PromptProvider | None = None,
        sampler: Sampler | None = None,
        upscaler: Upscaler | None = None,
    ) -> Pipeline:
        """A pipeline with other parts and the same networks, so that only one of both may be used at a time.

        None means the part of this pipeline.
        """
        twin = copy(self)
        twin.prompt_provider = prompt_provider or self.prompt_provider
        twin.sampler = sampler or self.sampler
        twin.upscaler = upscaler or self.upscaler
        return twin

    def __setattr__(self, name: str, value: Any) -> None:
        """Replace a network or the scheduler, as in diffusers: the backbone computes with the new one.

        A scheduler is the noise schedule of the model, and is sampled with from now on.

        Raises:
            ConfigError: The scheduler cannot be sampled with, or what is to be a network is none.
            CheckpointError: The scheduler has no noise schedule of the kind that XPSR is made for.
        """
        if name == "scheduler" and value is not None:
            NoiseSchedule(value)  # refuses what is none
        if name in NETWORKS and not isinstance(value, torch.nn.Module | None):
            raise ConfigError(f"{name} must be a torch.nn.Module, not a {type(value).__name__}.")
        backbone = self.__dict__.get("backbone")
        if name not in PARTS_OF_BACKBONE or backbone is None:
            super().__setattr__(name, value)
            return
        if name == "scheduler":
            self.sampler = Registry([]).create("sampler", {"name": "diffusers", "scheduler": type(value).__name__})
        super().__setattr__(name, value)
        setattr(backbone, name, value)

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Load a LoRA file, as in diffusers, which has two ways: for models with one text encoder, and with two."""
        one = StableDiffusionLoraLoaderMixin if self.text_encoder_2 is None else StableDiffusionXLLoraLoaderMixin
        one.load_lora_weights(self, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write the whole model, as in diffusers.

        Args:
            save_directory: The folder.
            kwargs: As in diffusers.

        Raises:
            ConfigError: A LoRA is loaded, or weights are quantised, with which the model could not be read again.
        """
        self._refuse_if_quantized("The weights of a model cannot be saved")
        loras = {
            name
            for part in (self.unet, self.text_encoder, self.text_encoder_2)
            for name in getattr(part, "peft_config", None) or ()
        }
        if loras:
            raise ConfigError(
                f"A model cannot be saved while a LoRA is loaded ({', '.join(sorted(loras))}): write it into the "
                "weights with fuse_lora() and unload_lora_weights(), or leave it out with unload_lora_weights() alone."
            )
        super().save_pretrained(save_directory, **kwargs)
        write_plugins(Path(save_directory), (self.unet, self.controlnet, self.backbone, self.upscaler, self.sampler))

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Write the loaded LoRAs into the weights, as in diffusers.

        Raises:
            ConfigError: The weights are quantised.
        """
        self._refuse_if_quantized("A LoRA cannot be written into the weights")
        super().fuse_lora(*args, **kwargs)

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Take the LoRAs out of the weights again, as in diffusers.

        Raises:
            ConfigError: The weights are quantised.
        """
        self._refuse_if_quantized("A LoRA cannot be taken out of the weights")
        super().unfuse_lora(*args, **kwargs)

    def _refuse_if_quantized(self, what: str) -> None:
        if kind := self.execution.quantize:
            raise ConfigError(f"{what} after they were quantised ({kind}): do it in a pipeline without quantize.")

    def set_execution(self, execution: ExecutionConfig, optimizations: Optimizations = ALL) -> None:
        """Set how the networks are executed. ``optimizations`` is for the benchmark.

        Raises:
            ConfigError: The weights are quantised, and another ``quantize`` is asked for.
        """
        before = getattr(self, "execution", execution).quantize
        if before and before != execution.quantize:
            raise ConfigError(
                f"The weights are quantised already ({before}), and cannot be changed to "
                f"{execution.quantize or 'full precision'}: build the pipeline again."
            )
        self.execution, self._optimizations = execution, optimizations
        if self.unet is not None:
            if execution.quantize:
                networks = (self.unet, self.controlnet, self.text_encoder, self.text_encoder_2)
                quantize_networks([part for part in networks if part is not None], execution.quantize)
            prepare_networks(self.unet, self.controlnet, self.vae, execution, optimizations)

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        photos: Photo,
        *,
        latents: Tensor | None = None,
        callback: UserCallback | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        progress: Progress | None = None,
        **settings: Unpack[RestoreSettings],
    ) -> Result: ...

    @overload
    def __call__(
        self,
        photos: Iterable[Photo],
        *,
        latents: Tensor | None = None,
        callback: UserCallback | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        progress: Progress | None = None,
        **settings: Unpack[RestoreSettings],
    ) -> list[Result]: ...

    def __call__(
        self,
        photos: Photo | Iterable[Photo],
        *,
        latents: Tensor | None = None,
        callback: UserCallback | None = None,
        callback_on_step_end: StepEndCallback | None = None,
        progress: Progress | None = None,
        **settings: Unpack[RestoreSettings],
    ) -> Result | list[Result]:
        """Restore one photo, or several, one after the other.

        Args:
            photos: A photo, in any of the forms of ``xpsr_sdk.data.photo.Photo``: a path, a PIL image, the bytes of a
                file, a file object, an array or a tensor, among others. Or a list of photos, or another iterable.
            latents: Start latents, 1 C h w. They are treated as pure noise, so ``fidelity`` does not set the start.
            callback: ``callback(step, timestep, latents)``, called after each step of each region. Sampling continues
                with latents that it returns or changes in place.
            callback_on_step_end: As in diffusers: ``callback_on_step_end(pipe, step, timestep, {"latents": latents})``,
                called after each step. If it returns a dictionary with ``latents``, they replace the current ones.
            progress: ``progress(done, total)``, called after each region of a photo.
            settings: Fields of ``xpsr_sdk.config.RestoreConfig``, for this call.

        Returns:
            A ``Result``, or a list of them for a list of photos.

        Raises:
            ConfigError: A setting is unknown or out of range.
            ImageError: A photo cannot be read, or is too small.
        """
        if callback_on_step_end:
            if callback:
                raise ConfigError("Give callback or callback_on_step_end, not both.")
            callback = of_diffusers(self, callback_on_step_end)
        one = is_photo(photos)
        several: Any = [photos] if one else photos
        results = []
        for photo in several:
            chosen = self.resolve(settings)  # draws a new seed for each photo, unless one is given
            loaded = load_photo(photo, chosen)
            results += self.restore([loaded], [chosen], latents=latents, callback=callback, progress=progress)
        return results[0] if one else results

    def resolve(self, settings: Mapping[str, Any]) -> ResolvedSettings:
        """Complete the settings of a call with those of the pipeline, sampler and model. A missing seed is drawn.

        Raises:
            ConfigError: A setting is unknown, out of range, or conflicts with another one.
        """
        if self.defaults.start == "photo" and not getattr(self.sampler, "distilled", False):
            raise ConfigError(
                "This model was distilled to restore a photo in one step, and the chosen sampler removes noise in"
                " several: choose the sampler one-step."
            )
        return resolve(self.settings, settings, self.defaults, getattr(self.sampler, "defaults", None))

    def explain(self, photo: Photo, **settings: Any) -> MemoryPlan:
        """Plan how a photo, or the first of its regions, would be restored, and the memory. Nothing is computed.

        The memory of the upscaler is given, too, where its network can be told and takes an image alone.

        Raises:
            ConfigError: A setting is unknown or out of range.
            ImageError: The photo cannot be read, or is too small.
        """
        if self.unet is None:
            raise ConfigError("There is no model whose memory could be planned: there is only an upscaler.")
        chosen, networks = self.resolve(settings), self._networks()
        loaded = load_photo(photo, chosen)
        regions = self._regions(loaded, chosen)
        width, height = (networks.padded(side) for side in regions[0].size)
        plan = plan_memory(networks, height, width, chosen, images=1)
        upscaling = plan_upscaling(self.upscaler, loaded.picture.size, chosen.upscaler_tile)
        return replace(plan, regions=len(regions), result=loaded.target_size(chosen), upscaling=upscaling)

    @torch.no_grad()
    def restore(
        self,
        photos: Sequence[LoadedPhoto],
        settings: Sequence[ResolvedSettings],
        *,
        latents: Tensor | None = None,
        callback: UserCallback | None = None,
        progress: Progress | None = None,
    ) -> list[Result]:
        """Restore photos together, as one batch.

        Args:
            photos: Photos of one size, from ``load_photo``.
            settings: The settings of each photo, from ``resolve``. Only seed, prompts and colour correction may differ.
            latents: Start latents, B C h w, instead of noise.
            callback: ``callback(step, timestep, latents)``, called after each step of each region.
            progress: ``progress(done, total)``, called after each region.

        Returns:
            A result for each photo. If memory ran out, less was computed at a time, and there was a warning.

        Raises:
            BrokenPlugin: A part failed, or gave something else than its contract promises.
            NonFiniteResult: NaN or infinity arose; the message says in which stage and in which part.
            ImageError: Memory ran out, and nothing is left that could be computed in smaller pieces.
        """
        names = ", ".join(photo.picture.name for photo in photos)
        with working_on(names), explaining_lack_of_memory(names):
            return self._restore(photos, settings, latents, callback, progress)

    def _restore(
        self,
        photos: Sequence[LoadedPhoto],
        settings: Sequence[ResolvedSettings],
        latents: Tensor | None,
        callback: UserCallback | None,
        progress: Progress | None,
    ) -> list[Result]:
        networks, clock = self._networks(), Clock(self._execution_device)
        regions = self._regions(photos[0], settings[0])
        prompts = [Prompts()] * len(photos)
        texts = [EncodedPrompts()] * len(photos)
        if self.unet is not None:
            with clock.stage("prompts"):
                prompts = [describe_photo(self.prompt_provider, *each) for each in zip(photos, settings, strict=True)]
            with clock.stage("text"):
                networks.fetch_text_encoders()
                texts = [
                    encode_prompts(self.backbone, said, each, networks.device)
                    for said, each in zip(prompts, settings, strict=True)
                ]
        prepared = [
            PreparedPhoto(
                photo.picture, each, text.high, text.low, None if latents is None else latents[i : i + 1], text.added
            )
            for i, (photo, each, text) in enumerate(zip(photos, settings, texts, strict=True))
        ]
        results: dict[int, Result] = {}
        try:
            for batch in batches_of_one_shape(prepared):
                workload = Workload(networks, len(batch), self.prompt_provider.unload)
                restoration = Restoration(networks, self.sampler, workload, clock, callback)
                pictures, tiles = restoration.restore([prepared[i] for i in batch], regions, progress)
                for i, picture in zip(batch, pictures, strict=True):
                    plan = Plan(
                        settings=settings[i].model_copy(update=workload.decided),
                        start_timestep=start_timestep(networks, settings[i], with_latents=latents is not None),
                        regions=len(regions),
                        tiles=tiles,
                        device=str(networks.device),
                        dtype=str(networks.dtype).removeprefix("torch."),
                        execution=self.execution,
                        images=workload.photos,
                    )
                    results[i] = Result(picture, prompts[i], settings[i].seed, plan, clock.seconds(), photos[i].path)
        finally:
            self.maybe_free_model_hooks()
        return [results[i] for i in range(len(photos))]

    def _regions(self, photo: LoadedPhoto, settings: ResolvedSettings) -> list[Region]:
        """The regions of a photo's result."""
        width, height = photo.target_size(settings)
        if width * height > settings.max_result_megapixels * 1e6:
            raise ImageError(
                f"{photo.picture.name} is not restored: the result would be {width}x{height}, which is "
                f"{width * height / 1e6:.0f} megapixels and may take hours, and the limit is "
                f"{settings.max_result_megapixels:g}: choose a smaller scale, or allow more (max_result_megapixels)."
            )
        if width < photo.picture.size[0]:
            across, down = photo.picture.size
            warnings.warn(
                f"{photo.picture.name} is {across}x{down}: its result is smaller, {width}x{height}.", stacklevel=2
            )
        return plan_regions(width, height, settings.region, settings.region_overlap, self.stride)

    def _networks(self) -> Networks:
        """The networks as they are now: diffusers may have moved or replaced them since the last call.

        Raises:
            ConfigError: One was set to None in the meantime.
        """
        if missing := [name for name in self._needed if getattr(self, name) is None]:
            raise ConfigError(f"{', '.join(missing)} was set to None: set it again before photos are restored.")
        return Networks(
            upscaler=self.upscaler,
            unet=self.unet,
            controlnet=self.controlnet,
            vae=self.vae,
            text_encoders=tuple(x for x in (self.text_encoder, self.text_encoder_2) if x is not None),
            scheduler=self.scheduler,
            backbone=self.backbone,
            defaults=self.defaults,
            device=self._execution_device,
            dtype=self.upscaler_dtype if self.unet is None else self.unet.dtype,
            execution=self.execution,
            optimizations=self._optimizations,
            memory=self._memory,
        )

    @property
    def stride(self) -> int:
        """Pixels per latent, in each direction; 1 without a model."""
        return 1 if self.backbone is None else int(self.backbone.stride)

    @property
    def _execution_device(self) -> torch.device:
        device: torch.device = self.upscaler_device if self.unet is None else super()._execution_device
        return device
