"""Turns names into objects: the only file that does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel

from xpsr_sdk.config import Component, PipelineConfig, RestoreConfig, load_config
from xpsr_sdk.contracts import Backbone, PromptProvider, Sampler
from xpsr_sdk.errors import CheckpointError, ConfigError, did_you_mean
from xpsr_sdk.models.checkpoints import WEIGHTS, read_checkpoint, read_json, read_model
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.fusion import fusions_from
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.registry import Registry, default_registry

if TYPE_CHECKING:
    from xpsr_sdk.training.config import ModelSection

PRESETS = Path(__file__).parent / "presets"
"""Models that are shipped with the package."""


def build_pipeline(
    config: PipelineConfig | None = None,
    *,
    registry: Registry | None = None,
    prompt_provider: Component | PromptProvider | None = None,
    sampler: Component | Sampler | None = None,
    backbone: Component | Backbone | None = None,
    **settings: Any,
) -> Pipeline:
    """A pipeline that is ready to restore photos.

    Every component can be given by name, as ``{"name": ..., <options>}``, or as an object that satisfies its contract.

    Args:
        config: Everything in one object; what else is given here replaces its fields.
        registry: Where names are looked up; None: the built-in and the installed plug-ins.
        prompt_provider: Who describes the photos.
        sampler: Who turns noise into latents.
        backbone: Which Stable Diffusion.
        settings: Further fields of ``xpsr_sdk.PipelineConfig``.

    Raises:
        ConfigError: A setting is unknown or out of range.
        PluginError: A component is unknown or broken.
        CheckpointError: The model is missing, damaged or of another architecture.
    """
    registry = registry or default_registry()
    given = config.model_dump(exclude_unset=True) if config else {}
    given |= {name: value for name, value in settings.items() if value is not None}
    config = load_config(PipelineConfig, given, "build_pipeline")
    device = find_device(config.device)
    folder = find_model(config.model)
    index = read_json(folder / "model_index.json")
    dtype: torch.dtype = getattr(torch, config.dtype or "float32")

    chosen = backbone or config.backbone or index.get("backbone") or "stable-diffusion"
    parts = registry.create("backbone", chosen)
    parts.load(folder, dtype)
    unet, controlnet = _networks(config, folder, registry, dtype)
    _check_fit(unet, controlnet, parts, f"{config.checkpoint or folder} does not fit the base model {folder}")
    pipeline = Pipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=unet,
        controlnet=controlnet,
        scheduler=parts.scheduler,
        backbone=chosen if isinstance(chosen, str) else None,
        defaults=index.get("defaults"),
    )
    pipeline.equip(
        backbone=parts,
        prompt_provider=registry.create(
            "prompt_provider", prompt_provider or config.prompt_provider, default="measured"
        ),
        sampler=registry.create("sampler", sampler or config.sampler or pipeline.defaults.sampler),
        settings=RestoreConfig(**{name: getattr(config, name) for name in RestoreConfig.model_fields}),
    )
    pipeline.resolve({})  # settings that do not go together are an error now, not at the first photo
    return pipeline.to(device)


def build_for_training(
    section: ModelSection, registry: Registry | None = None
) -> tuple[Backbone, XPSRUNet, XPSRControlNet]:
    """Backbone, U-Net and ControlNet for a training run, in float32 on the CPU.

    Raises:
        PluginError: A component is unknown or broken.
        CheckpointError: The base or the checkpoint is missing, damaged or of another architecture.
    """
    registry = registry or default_registry()
    backbone: Any = registry.create("backbone", section.backbone)
    with fusions_from(registry):
        if section.from_scratch:
            backbone.load(section.base, from_scratch=True)
            config = read_json(section.base / "unet" / "config.json")
            base = UNet2DConditionModel.from_config(config)
            # As latent diffusion does (arXiv 2112.10752): the first prediction is zero, not noise.
            torch.nn.init.zeros_(base.conv_out.weight)
            torch.nn.init.zeros_(base.conv_out.bias)
        else:
            backbone.load(section.base)
            checkpoint = section.checkpoint or _checkpoint_in(section.base)
            if checkpoint:
                _only_for_fresh_networks(section, checkpoint)
                return backbone, *read_checkpoint(checkpoint, dtype=torch.float32)
            base = read_model(UNet2DConditionModel, section.base / "unet", dtype=torch.float32)
        controlnet = XPSRControlNet.from_unet(base, section.conditioning_widths, section.fusion)
        return backbone, XPSRUNet.from_base(base), controlnet


def _only_for_fresh_networks(section: ModelSection, checkpoint: Path) -> None:
    for name in ("fusion", "conditioning_widths"):
        if name in section.model_fields_set:
            raise ConfigError(f"model.{name} is for a fresh ControlNet, but {checkpoint} holds one: leave it out.")


def find_model(name: str) -> Path:
    """The folder of a model: a preset, a local folder, or the hub's (downloaded at first use).

    Raises:
        ConfigError: There is no such model.
    """
    if Path(name).is_dir():
        return Path(name)
    presets = sorted(p.name for p in PRESETS.iterdir() if p.is_dir()) if PRESETS.is_dir() else []
    if name in presets:
        return PRESETS / name
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    raise ConfigError(f"There is no model {name!r}: neither a folder nor a preset. {did_you_mean(name, presets)}")


def find_device(name: str | None) -> torch.device:
    """The device of that name; None: the first there is of cuda, xpu, mps, cpu.

    Raises:
        ConfigError: There is no such device.
    """
    if name is None:
        kinds: dict[str, Any] = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}
        return torch.device(next((kind for kind, backend in kinds.items() if backend.is_available()), "cpu"))
    try:
        return torch.zeros(1, device=name).device
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"The device {name!r} cannot be used: {reason}") from error


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*/*.json", "*/*.txt", "*/*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"The model {name!r} is neither a folder here nor could it be had from the hub: {error}"
        ) from error


def _networks(
    config: PipelineConfig, folder: Path, registry: Registry, dtype: torch.dtype
) -> tuple[XPSRUNet, XPSRControlNet]:
    checkpoint = config.checkpoint or _checkpoint_in(folder)
    if checkpoint is None:
        raise CheckpointError(
            f"{folder} is a base model: it has no controlnet/. Name an XPSR checkpoint for it (--checkpoint)."
        )
    with fusions_from(registry):
        return read_checkpoint(checkpoint, config.checkpoint_weights or WEIGHTS, dtype)


def _check_fit(unet: XPSRUNet, controlnet: XPSRControlNet, backbone: Any, where: str) -> None:
    """Find out now what would fail in the middle of the first photo."""
    conditioning_stride = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)
    facts = {
        "channels of the latents": (unet.config.in_channels, backbone.latent_channels),
        "pixels a latent": (conditioning_stride, backbone.stride),
        "channels of the text": (unet.config.cross_attention_dim, backbone.text_width),
    }
    for fact, (made_for, found) in facts.items():
        if made_for != found:
            raise CheckpointError(f"{where}: it was made for {made_for} {fact}, not {found}.")


def _checkpoint_in(folder: Path) -> Path | None:
    return folder if (folder / "controlnet").is_dir() else None
