"""Writes what the docs say of settings, options, parts, commands and sizes anew, from what they describe.

    python docs/tables.py

It stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; a test fails when it is out of date.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from torch.nn import Module

from xpsr_sdk.benchmark.protocol import DataSet, Method, Protocol
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.cli.plugins import option_records
from xpsr_sdk.cli.upscale import upscale
from xpsr_sdk.config import SPEEDS, ExecutionConfig, ModelDefaults, PipelineConfig, RestoreConfig, Settings, read_toml
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.plugin_system.discovery import Plugin
from xpsr_sdk.plugin_system.registered import RegisteredComponent
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.testing.clauses import CLAUSES, COMMON
from xpsr_sdk.training.config import (
    DataSection,
    LossSection,
    ModelSection,
    OneStepSection,
    OptimizerSection,
    TrainConfig,
    ValidationSection,
    WeightedTerm,
)
from xpsr_sdk.training.models import build_for_training

HERE = Path(__file__).parent
MODELS: tuple[type[Settings], ...] = (
    RestoreConfig, PipelineConfig, ExecutionConfig, ModelDefaults, Recipe,
    TrainConfig, ModelSection, DataSection, LossSection, WeightedTerm, OneStepSection, OptimizerSection,
    ValidationSection,
    Protocol, DataSet, Method,
)  # fmt: skip
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table(model: type[Settings]) -> str:
    """A row for each field that the model does not inherit; groups of fields have tables of their own."""
    inherited = {name for base in model.__bases__ if issubclass(base, Settings) for name in base.model_fields}
    records = option_records(model.model_fields, {})
    return records_table("setting", (r for r in records if r["name"] not in inherited and "." not in r["name"]))


def records_table(heading: str, records: Iterable[dict[str, Any]]) -> str:
    """A row for each setting or option."""
    lines = [f"| {heading} | type | default | range | meaning |", "|---|---|---|---|---|"]
    for record in records:
        default = "required" if record["required"] else f"`{json.dumps(record['default'], ensure_ascii=False)}`"
        cells = [f"`{record['name']}`", record["type"], default, record["range"], record["meaning"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parts_section(kind: str) -> str:
    """The parts of a kind that come with the SDK or lie in plugins/, and the options of those that come with it."""
    components = known_parts().components(kind)
    lines = ["| name | distribution | what it is |", "|---|---|---|"]
    lines += [f"| `{c.spec.name}` | {link(c.distribution)} | {c.spec.summary} |" for c in components]
    targets: dict[str, list[RegisteredComponent]] = {}
    for component in components:
        if component.distribution == "xpsr-sdk":
            targets.setdefault(component.spec.target, []).append(component)
    return "\n".join(lines) + "\n" + "".join(options_section(kind, sharing) for sharing in targets.values())


def link(distribution: str) -> str:
    """A distribution's name, which leads to its page if it has one."""
    page = f"plugins/{distribution.removeprefix('xpsr-')}.md"
    return f"[{distribution}](../{page})" if (HERE / page).is_file() else distribution


def options_section(kind: str, components: list[RegisteredComponent]) -> str:
    """The options of a class, and what each of the names that share it sets."""
    fields = known_parts().resolve(kind, components[0].spec.name).Config.model_fields
    names = ", ".join(f"`{c.spec.name}`" for c in components)
    if not fields:
        return f"\n{names}: no options.\n"
    presets = [f"`{c.spec.name}` sets {toml_words(c.spec.defaults)}" for c in components if c.spec.defaults]
    of_presets = "".join(f"- {line}\n" for line in presets)
    return f"\n### Options of {names}\n\n{records_table('option', option_records(fields, {}))}\n{of_presets}"


def toml_words(values: Mapping[str, Any]) -> str:
    """``name = value``, as in a config file."""

    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{ " + ", ".join(f"{k} = {words(v)}" for k, v in value.items()) + " }"
        return json.dumps(value)

    return ", ".join(f"`{name} = {words(value)}`" for name, value in values.items())


@cache
def known_parts() -> Registry:
    """The parts that come with the SDK, and those in plugins/, whether they are installed or not."""
    return Registry([plugin for file in sorted(HERE.parent.glob("plugins/*/pyproject.toml")) for plugin in of(file)])


def of(pyproject: Path) -> Iterator[Plugin]:
    """The plug-ins of a distribution's source."""

    def load(module: str) -> object:
        sys.path.insert(0, str(pyproject.parent))
        return import_module(module)

    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    for module in project["entry-points"].get("xpsr_sdk", {}).values():  # runners have a group of their own
        yield Plugin(project["name"], project["version"], partial(load, module))


def clauses_section() -> str:
    """The clauses of every contract, each with its remedy."""
    text = _clauses_table(COMMON)
    for kind, clauses in CLAUSES.items():
        own = {name: remedy for name, remedy in clauses.items() if name not in COMMON}
        article = "an" if kind[0] in "aeiou" else "a"
        text += f"\n### Of {article} {kind.replace('_', ' ')}\n\n{_clauses_table(own)}"
    return text


def _clauses_table(clauses: Mapping[str, str]) -> str:
    rows = [f"| {name} | {remedy} |" for name, remedy in clauses.items()]
    return "\n".join(["| clause | how to fix a violation |", "|---|---|", *rows]) + "\n"


def help_section(name: str = "xpsr", command: click.Command = xpsr, parent: click.Context | None = None) -> str:
    """What ``--help`` says, of a command and of those below it."""
    last = name.rpartition(" ")[2]
    context = click.Context(command, parent, info_name=last, terminal_width=80, **command.context_settings)
    text = f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            text += "\n" + help_section(f"{name} {below}", found, context)
    return text


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
    backbone, unet, controlnet = build_for_training(read_toml(TrainConfig, config).model, known_parts())

    def count(model: Module, *parts: str) -> str:
        sizes = [p.numel() for name, p in model.named_parameters() if not parts or any(part in name for part in parts)]
        return f"{sum(sizes) / 1e6:.2f} M"

    text = backbone.text_encoder.config
    widths = " and ".join(map(str, unet.config.block_out_channels))
    of_unet = f"widths {widths}; {count(unet, '.pixel_attentions.')} of it pixel attention"
    heads = count(controlnet, "conv_degradation", ".to_rgbs.")
    of_controlnet = f"{count(controlnet, '.fusions.')} of it fusion, {heads} heads of the constraint"
    of_text = f"CLIP's kind: {text.num_hidden_layers} layers of width {text.hidden_size}, {text.vocab_size} tokens"
    of_latents = (
        f"lossless: the residual to the upscaled photo, {backbone.latent_channels} channels at stride {backbone.stride}"
    )
    lines = [
        "| part | parameters | |",
        "|---|---|---|",
        f"| U-Net | {count(unet)} | {of_unet} |",
        f"| ControlNet | {count(controlnet)} | {of_controlnet} |",
        f"| text encoder | {count(backbone.text_encoder)} | {of_text} |",
        f"| autoencoder | 0 | {of_latents} |",
    ]
    return "\n".join(lines) + "\n"


def speeds_table() -> str:
    """A row for each set of approximations."""
    lines = ["| `speed` | steps | guidance | evaluations that share deep features |", "|---|---|---|---|"]
    for name, speed in SPEEDS.items():
        steps = "the model's" if speed.steps_share == 1 else f"{speed.steps_share:.0%} of the model's"
        lowest, highest = speed.guidance_interval
        guidance = (
            "everywhere" if (lowest, highest) == (0, 1) else f"from {highest:g} to {lowest:g} of the noise schedule"
        )
        lines.append(f"| `{name}` | {steps} | {guidance} | {speed.reuse_interval} |")
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """A page's text with every table made anew."""
    makers: dict[str, Callable[[], str]] = {
        **{model.__name__: partial(settings_table, model) for model in MODELS},
        **{kind: partial(parts_section, kind) for kind in KINDS},
        "clauses": clauses_section,
        "commands": help_section,
        "speeds": speeds_table,
        "upscale": partial(options_table, upscale),
        "nano": partial(sizes_table, HERE.parent / "examples" / "train_nano" / "1-mean.toml"),
    }
    return TABLE.sub(lambda match: f"{match[1]}\n{makers[match[2]]()}\n{match[3]}", text)


if __name__ == "__main__":
    for page in sorted(HERE.rglob("*.md")):
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
