"""Writes the tables of the docs anew that describe settings, options and sizes, from what they describe.

    python docs/tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; a test fails when one is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from torch.nn import Module

from xpsr_sdk.build import build_for_training
from xpsr_sdk.cli.plugins import option_records
from xpsr_sdk.cli.upscale import upscale
from xpsr_sdk.config import PipelineConfig, RestoreConfig, Settings, read_toml
from xpsr_sdk.pipeline import ModelDefaults
from xpsr_sdk.training.config import (
    DataSection,
    LossSection,
    ModelSection,
    OptimizerSection,
    TrainConfig,
    ValidationSection,
)

HERE = Path(__file__).parent
PAGES = (HERE / "configuration.md", HERE / "nano.md")
MODELS: tuple[type[Settings], ...] = (
    RestoreConfig, PipelineConfig, ModelDefaults, TrainConfig, ModelSection, DataSection, LossSection, OptimizerSection,
    ValidationSection,
)  # fmt: skip
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table(model: type[Settings]) -> str:
    """A row for each field that the model does not inherit; groups of fields have tables of their own."""
    inherited = {name for base in model.__bases__ if issubclass(base, Settings) for name in base.model_fields}
    lines = ["| setting | type | default | range | meaning |", "|---|---|---|---|---|"]
    for option in option_records(model.model_fields, {}):
        if option["name"] not in inherited and "." not in option["name"]:
            default = "required" if option["required"] else f"`{json.dumps(option['default'], ensure_ascii=False)}`"
            cells = [f"`{option['name']}`", option["type"], default, option["range"], option["meaning"]]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def options_table(command: click.Command) -> str:
    """A row for each option of a command, with the setting that it is."""
    lines = ["| option | setting | meaning |", "|---|---|---|"]
    for option in command.params:
        if isinstance(option, click.Option):
            setting = f"`{option.name}`" if option.name in PipelineConfig.model_fields else ""
            lines.append(f"| `{', '.join(option.opts)}` | {setting} | {option.help} |")
    return "\n".join(lines) + "\n"


def sizes_table(config: Path) -> str:
    """Parameters of each network that a training config makes, and of what XPSR adds to it."""
    backbone, unet, controlnet = build_for_training(read_toml(TrainConfig, config).model)

    def count(model: Module, *parts: str) -> str:
        sizes = [p.numel() for name, p in model.named_parameters() if not parts or any(part in name for part in parts)]
        return f"{sum(sizes) / 1e6:.2f} M"

    text = backbone.text_encoder.config
    widths = " and ".join(map(str, unet.config.block_out_channels))
    of_unet = f"widths {widths}; {count(unet, '.pixel_attentions.')} of it pixel attention"
    heads = count(controlnet, "conv_degradation", ".to_rgbs.")
    of_controlnet = f"{count(controlnet, '.fusions.')} of it fusion, {heads} heads of the constraint"
    of_text = f"CLIP's kind: {text.num_hidden_layers} layers of width {text.hidden_size}, {text.vocab_size} tokens"
    of_latents = f"lossless: the residual to bicubic, {backbone.latent_channels} channels at stride {backbone.stride}"
    lines = [
        "| part | parameters | |",
        "|---|---|---|",
        f"| U-Net | {count(unet)} | {of_unet} |",
        f"| ControlNet | {count(controlnet)} | {of_controlnet} |",
        f"| text encoder | {count(backbone.text_encoder)} | {of_text} |",
        f"| autoencoder | 0 | {of_latents} |",
    ]
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """A page's text with every table made anew."""
    makers: dict[str, Callable[[], str]] = {
        **{model.__name__: partial(settings_table, model) for model in MODELS},
        "upscale": partial(options_table, upscale),
        "nano": partial(sizes_table, HERE.parent / "examples" / "train_nano" / "1-base.toml"),
    }
    return TABLE.sub(lambda match: f"{match[1]}\n{makers[match[2]]()}\n{match[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
