"""The models of a training run: from a base, from a checkpoint or from random weights, and what names their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from xpsr_sdk.config import Component, backbone_of, read_defaults
from xpsr_sdk.contracts import Backbone
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.models.checkpoints import check_fit, checkpoint_in, read_checkpoint, read_json, read_model
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.training.config import ModelSection


def build_for_training(section: ModelSection, registry: Registry) -> tuple[Backbone, XPSRUNet, XPSRControlNet]:
    """Backbone, U-Net and ControlNet for a training run, in float32 on the CPU.

    Args:
        section: What is trained.
        registry: Where names are looked up.

    Raises:
        ConfigError: Options do not go together.
        PluginError: A component is unknown or broken.
        CheckpointError: The base or the checkpoint is missing, damaged or of another architecture.
    """
    if section.from_scratch and section.checkpoint:
        raise ConfigError(
            f"model.from_scratch is true, but model.checkpoint names {section.checkpoint}: leave one of them out."
        )
    backbone: Backbone = registry.create("backbone", trained_backbone(section))
    with registry.in_force():
        backbone.load(section.base_folder, dtype=torch.float32, from_scratch=section.from_scratch)
        if section.from_scratch:
            config = read_json(section.base_folder / "unet" / "config.json")
            base = UNet2DConditionModel.from_config(config)
            # As latent diffusion does (arXiv 2112.10752): the first prediction is zero, not noise.
            torch.nn.init.zeros_(base.conv_out.weight)
            torch.nn.init.zeros_(base.conv_out.bias)
        else:
            checkpoint = section.checkpoint or checkpoint_in(section.base_folder)
            if checkpoint:
                _only_for_fresh_networks(section, checkpoint)
                unet, controlnet = read_checkpoint(checkpoint, dtype=torch.float32)
                check_fit(unet, controlnet, backbone, f"{checkpoint} does not fit the base model {section.base}")
                return backbone, unet, controlnet
            base = read_model(UNet2DConditionModel, section.base_folder / "unet", dtype=torch.float32)
        _check_widths(section, backbone)
        controlnet = XPSRControlNet.from_unet(
            base, section.conditioning_widths, section.fusion, section.conditioning_channels
        )
        pixel_attention = True if section.pixel_attention is None else section.pixel_attention
        if section.from_scratch:
            controlnet.open_zero_convolutions()  # there is no trained base that they protect
        unet = XPSRUNet.from_base(base, pixel_attention=pixel_attention)
        check_fit(unet, controlnet, backbone, f"The U-Net of {section.base} does not fit its backbone")
        return backbone, unet, controlnet


def trained_backbone(section: ModelSection) -> Component:
    """The backbone of a training run: the config's, else the base's own.

    Raises:
        CheckpointError: The base has no index.
    """
    return section.backbone or backbone_of(read_json(section.base_folder / "model_index.json"))


def trained_upscaler(section: ModelSection) -> Component:
    """The upscaler of a training run: the config's, else the one that the base names, else XPSR's, bicubic."""
    index = section.base_folder / "model_index.json"
    return section.upscaler or read_defaults(read_json(index) if index.is_file() else {}).upscaler


def trained_index(section: ModelSection) -> dict[str, Any]:
    """The ``model_index.json`` of a whole model that a run leaves: the base's, with the run's backbone and upscaler.

    Raises:
        CheckpointError: The base has none.
    """
    index = read_json(section.base_folder / "model_index.json")
    defaults = {**(index.get("defaults") or {}), "upscaler": trained_upscaler(section)}
    return index | {"backbone": trained_backbone(section), "defaults": defaults}


def _check_widths(section: ModelSection, backbone: Backbone) -> None:
    """The conditioning encoder halves the input at each level but the first, down to the size of the latents."""
    count, needed = len(section.conditioning_widths), int(backbone.stride).bit_length()
    if count != needed:
        raise ConfigError(
            f"model.conditioning_widths has {count} levels, for {2 ** (count - 1)} pixels a latent; the backbone has "
            f"{backbone.stride}: give {needed} widths."
        )


def _only_for_fresh_networks(section: ModelSection, checkpoint: Path) -> None:
    for name in ("fusion", "conditioning_widths", "conditioning_channels", "pixel_attention"):
        if name in section.model_fields_set:
            raise ConfigError(f"model.{name} is for a fresh ControlNet, but {checkpoint} holds one: leave it out.")
