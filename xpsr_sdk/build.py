"""Builds a pipeline from a config: its networks, and its parts by their names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from xpsr_sdk.config import (
    Component,
    Offload,
    PipelineConfig,
    RestoreConfig,
    backbone_of,
    read_defaults,
    with_settings,
)
from xpsr_sdk.contracts import Backbone, PromptProvider, Sampler, Upscaler, parts_of
from xpsr_sdk.engine.memory import is_out_of_memory
from xpsr_sdk.engine.quantized import check_quantization
from xpsr_sdk.errors import CheckpointError, ConfigError
from xpsr_sdk.hardware.devices import find_device, find_dtype
from xpsr_sdk.models.checkpoints import check_fit, checkpoint_in, read_checkpoint, read_json, with_own_defaults
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.embedding_files import add_embeddings
from xpsr_sdk.models.find_model import find_checkpoint, find_model
from xpsr_sdk.models.loading import without_bars
from xpsr_sdk.models.lora_files import merge_loras
from xpsr_sdk.models.plugins_file import says_what_to_install
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.plugin_system.registry import Registry, default_registry

if TYPE_CHECKING:
    from xpsr_sdk.settings import PipelineSettings

OF_MODELS = (
    *("prompt_provider", "prompt", "low_prompt", "positive", "negative", "low_negative", "long_prompts"),
    *("prompt_weights", "num_inference_steps", "guidance_scale", "guidance_interval", "sampler", "speed"),
    *("reuse_interval", "conditioning_scale", "tile", "tile_overlap", "tile_batch", "vae_rows"),
)
"""Settings that have no effect without a diffusion model."""


def build_pipeline(
    config: PipelineConfig | None = None,
    *,
    registry: Registry | None = None,
    prompt_provider: Component | PromptProvider | None = None,
    sampler: Component | Sampler | None = None,
    backbone: Component | Backbone | None = None,
    upscaler: Component | Upscaler | None = None,
    **settings: Unpack[PipelineSettings],
) -> Pipeline:
    """Build a pipeline that is ready to restore photos.

    Every component can be given by name, as ``{"name": ..., <options>}``, or as an object that satisfies its contract.

    Args:
        config: All settings in one object. The other arguments override its fields.
        registry: The registry in which names are looked up. None: the built-in and the installed plug-ins.
        prompt_provider: Describes the photos.
        sampler: Turns noise into latents.
        backbone: The version of Stable Diffusion.
        upscaler: Enlarges photos to the size at which they are restored.
        settings: Other fields of ``xpsr_sdk.PipelineConfig``.

    Raises:
        ConfigError: A setting is unknown or out of range.
        PluginError: A component is unknown or broken.
        CheckpointError: The model is missing, damaged or of another architecture.
    """
    registry = registry or default_registry()
    if config is not None and not isinstance(config, PipelineConfig):
        raise ConfigError(f"The config is {config!r}, not a PipelineConfig: to name a model, write model=...")
    config = with_settings(config, settings, "build_pipeline")
    device = find_device(config.device)
    if config.model == "none":
        return _upscaler_alone(config, registry, upscaler, device)
    check_quantization(config.execution.quantize, device)
    folder = find_model(config.model)
    if config.checkpoint:
        config = config.model_copy(update={"checkpoint": find_checkpoint(config.checkpoint)})
    # Parts are created before the weights are read, so that misspelt names are reported quickly.
    provider = registry.create("prompt_provider", prompt_provider or config.prompt_provider, default="measured")
    index = with_own_defaults(read_json(folder / "model_index.json"), config.checkpoint)
    upscaler = upscaler or config.upscaler
    if isinstance(upscaler, str | dict):  # stored in the pipeline's config when it is saved
        index = index | {"defaults": {**(index.get("defaults") or {}), "upscaler": upscaler}}
    defaults = read_defaults(index)
    with says_what_to_install(folder):
        chosen_upscaler = registry.create("upscaler", upscaler or defaults.upscaler)
        chosen_sampler = registry.create("sampler", sampler or config.sampler or defaults.sampler)
    named = config.dtype or defaults.dtype
    dtype = getattr(torch, named) if named else find_dtype(device)
    # Weights that do not go to the device as they are would not always fit there.
    changed = config.execution.offload or config.execution.quantize
    weights_on = torch.device("cpu") if changed else device
    with _explaining_lack_of_memory(device), without_bars(), says_what_to_install(folder, config.checkpoint):
        pipeline, parts = _load(config, folder, index, dtype, weights_on, registry, backbone or config.backbone)
    pipeline.configure(
        backbone=parts,
        prompt_provider=provider,
        sampler=chosen_sampler,
        upscaler=chosen_upscaler,
        settings=_for_photos(config),
        execution=config.execution,
    )
    resolved = pipeline.resolve({})  # raises errors of conflicting settings now, not at the first photo
    idle = [name for name in ("negative", "low_negative") if getattr(config, name)]
    if idle and resolved.guidance_scale == 1:
        warnings.warn(
            f"{' and '.join(idle)} have no effect: guidance_scale is 1, and negative prompts act by guidance.",
            stacklevel=2,
        )
    with _explaining_lack_of_memory(device):
        _place(pipeline, device, config.execution.offload)
    return pipeline


def _upscaler_alone(
    config: PipelineConfig, registry: Registry, upscaler: Component | Upscaler | None, device: torch.device
) -> Pipeline:
    """A pipeline without a diffusion model."""
    _refuse_settings_of_models(config)
    parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "controlnet", "scheduler"))
    chosen = upscaler or config.upscaler or "realesrgan-x4plus"
    kept = {"upscaler": chosen} if isinstance(chosen, str | dict) else {}
    pipeline = Pipeline(**parts, defaults={"color": "none", **kept})
    pipeline.configure(
        prompt_provider=registry.create("prompt_provider", "fixed"),  # not used
        sampler=registry.create("sampler", "ddim"),  # not used
        upscaler=registry.create("upscaler", chosen),
        settings=_for_photos(config),
    )
    if config.fidelity is not None and pipeline.upscaler.scale == 1:
        warnings.warn(
            "Without a diffusion model, fidelity blends the upscaler's image with the bicubic one, and has no effect: "
            "this upscaler leaves all enlarging to bicubic resizing.",
            stacklevel=3,
        )
    pipeline.upscaler_device = device
    pipeline.upscaler_dtype = getattr(torch, config.dtype) if config.dtype else find_dtype(device)
    pipeline.resolve({})  # raises errors of conflicting settings now
    return pipeline


def _refuse_settings_of_models(config: PipelineConfig) -> None:
    """Raise an error if what is given belongs to a diffusion model; warn of settings that have no effect without."""
    of_models = ("checkpoint", "checkpoint_weights", "vae", "lora", "embedding", "backbone")
    given = {name: getattr(config, name) for name in of_models}
    given |= {f"execution.{name}": getattr(config.execution, name) for name in config.execution.model_fields_set}
    for name, value in given.items():
        if value:
            raise ConfigError(f"{name} is for a diffusion model, and model is 'none': leave one of them out.")
    fields = PipelineConfig.model_fields
    if idle := [name for name in OF_MODELS if getattr(config, name) not in (None, fields[name].default)]:
        words = f"Without a diffusion model (model is 'none'), these have no effect: {', '.join(idle)}."
        warnings.warn(words, stacklevel=4)


def _for_photos(config: PipelineConfig) -> RestoreConfig:
    """The part of a config that says how photos are restored."""
    return RestoreConfig(**{name: getattr(config, name) for name in RestoreConfig.model_fields})


@contextmanager
def _explaining_lack_of_memory(device: torch.device) -> Iterator[None]:
    """Within the block, turn an out-of-memory error into a ``ConfigError`` that says what to do."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"The model does not fit into the memory of {device}: set offload (model or group), which keeps unused "
            "weights in host memory, a dtype of 16 bits, which needs half of the memory, or quantize (int8 or nf4), "
            "which needs still less."
        ) from error


def _place(pipeline: Pipeline, device: torch.device, offload: Offload | None) -> None:
    """Move the pipeline to its device, or set up offloading."""
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "group":
        pipeline.enable_group_offload(onload_device=device, offload_type="leaf_level")
    else:
        pipeline.to(device)


def _load(
    config: PipelineConfig,
    folder: Path,
    index: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    registry: Registry,
    backbone: Component | Backbone | None,
) -> tuple[Pipeline, Backbone]:
    """Load the networks in a model's folder. Returns a pipeline and its backbone.

    Args:
        index: The content of the folder's ``model_index.json``.
    """
    of_index = backbone_of(index)
    parts: Backbone = registry.create("backbone", _with_vae(backbone or of_index, config.vae))
    parts.load(folder, dtype)
    unet, controlnet = _networks(config, folder, registry, dtype, device)
    check_fit(unet, controlnet, parts, f"{config.checkpoint or folder} does not fit the base model {config.model}")
    pipeline = Pipeline(
        **parts_of(parts),
        unet=unet,
        controlnet=controlnet,
        backbone=backbone if isinstance(backbone, str | dict) else of_index,
        defaults=index.get("defaults"),
    )
    merge_loras(pipeline, config.lora or ())
    add_embeddings(pipeline, config.embedding or ())
    return pipeline, parts


def _with_vae(backbone: Component | Backbone, vae: str | None) -> Component | Backbone:
    """The backbone, which reads its autoencoder from ``vae`` if that is named.

    It is no part of the model's config: a model that is saved holds the autoencoder itself.
    """
    if vae is None:
        return backbone
    if not isinstance(backbone, str | dict):
        raise ConfigError("vae is for a backbone that is named, and this one is an object: set its autoencoder there.")
    return {**({"name": backbone} if isinstance(backbone, str) else backbone), "vae": vae}


def _networks(
    config: PipelineConfig, folder: Path, registry: Registry, dtype: torch.dtype, device: torch.device
) -> tuple[XPSRUNet, XPSRControlNet]:
    checkpoint = config.checkpoint or checkpoint_in(folder)
    if checkpoint is None:
        raise CheckpointError(
            f"{config.model} is a base model: it has no controlnet/. Name an XPSR checkpoint for it (--checkpoint)."
        )
    with registry.in_force():
        return read_checkpoint(checkpoint, config.checkpoint_weights, dtype, device)
