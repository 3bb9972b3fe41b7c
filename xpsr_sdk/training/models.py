"""Builds the models of a training run: from a base model, from a checkpoint or from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from xpsr_sdk.config import Component, backbone_of, read_defaults
from xpsr_sdk.contracts import Backbone
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.models.checkpoints import check_fit, checkpoint_in, read_checkpoint, read_json, read_model
from xpsr_sdk.models.config_files import check_network_config
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.find_model import find_checkpoint
from xpsr_sdk.models.loading import without_bars
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.training.config import ModelSection


def build_for_training(section: ModelSection, registry: Registry) -> tuple[Backbone, XPSRUNet, XPSRControlNet]:
    """Build the backbone, the U-Net and the ControlNet for a training run, in float32 on the CPU.

    Args:
        section: The section ``model`` of the config.
        registry: The registry in which names are looked up.

    Raises:
        ConfigError: Options conflict with each other.
        PluginError: A component is unknown or broken.
        CheckpointError: The base or the checkpoint is missing, damaged or of another architecture.
    """
    if section.from_scratch and section.checkpoint:
        raise ConfigError(
            f"model.from_scratch is true, but model.checkpoint names {section.checkpoint}: leave one of them out."
        )
    backbone: Backbone = registry.create("backbone", trained_backbone(section))
    with registry.in_force(), without_bars():
        backbone.load(section.base_folder, dtype=torch.float32, from_scratch=section.from_scratch)
        if section.from_scratch:
            config = read_json(section.base_folder / "unet" / "config.json")
            check_network_config(config, section.base_folder / "unet" / "config.json")
            base = UNet2DConditionModel.from_config(config)
            # As in latent diffusion (arXiv 2112.10752), so that the first prediction is zero.
            torch.nn.init.zeros_(base.conv_out.weight)
            torch.nn.init.zeros_(base.conv_out.bias)
        else:
            named = section.checkpoint
            checkpoint = find_checkpoint(named) if named else checkpoint_in(section.base_folder)
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
            controlnet.open_zero_convolutions()  # they would protect a trained base, but there is none
        unet = XPSRUNet.from_base(base, pixel_attention=pixel_attention)
        check_fit(unet, controlnet, backbone, f"The U-Net of {section.base} does not fit its backbone")
        return backbone, unet, controlnet


def trained_backbone(section: ModelSection) -> Component:
    """The backbone of a training run: that of the config or, if there is none, that of the base model.

    Raises:
        CheckpointError: The base model has no ``model_index.json``.
    """
    return section.backbone or backbone_of(read_json(section.base_folder / "model_index.json"))


def trained_upscaler(section: ModelSection) -> Component:
    """The upscaler of a training run: that of the config, or that of the base model, or bicubic."""
    index = section.base_folder / "model_index.json"
    return section.upscaler or read_defaults(read_json(index) if index.is_file() else {}).upscaler


def trained_index(section: ModelSection) -> dict[str, Any]:
    """The ``model_index.json`` for the models of a run: that of the base model, with the run's backbone and upscaler.

    Raises:
        CheckpointError: The base model has no ``model_index.json``.
    """
    index = read_json(section.base_folder / "model_index.json")
    defaults = {**(index.get("defaults") or {}), "upscaler": trained_upscaler(section)}
    return index | {"backbone": trained_backbone(section), "defaults": defaults}


def _check_widths(section: ModelSection, backbone: Backbone) -> None:
    """Raise an error unless the conditioning encoder reduces its input to the size of the latents."""
    count, needed = len(section.conditioning_widths), int(backbone.stride).bit_length()
    if count != needed:
        raise ConfigError(
            f"model.conditioning_widths has {count} levels, for {2 ** (count - 1)} pixels per latent; the backbone has "
            f"{backbone.stride}: give {needed} widths."
        )


def _only_for_fresh_networks(section: ModelSection, checkpoint: Path) -> None:
    for name in ("fusion", "conditioning_widths", "conditioning_channels", "pixel_attention"):
        if name in section.model_fields_set:
            raise ConfigError(f"model.{name} is for a fresh ControlNet, but {checkpoint} holds one: leave it out.")
