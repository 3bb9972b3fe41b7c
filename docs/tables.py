"""Writes the tables of docs/configuration.md anew, from the models and commands that they describe.

    python docs/tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; a test fails when one is out of date.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from xpsr_sdk.cli.plugins import _option_records
from xpsr_sdk.cli.upscale import upscale
from xpsr_sdk.config import PipelineConfig, RestoreConfig, Settings
from xpsr_sdk.pipeline import ModelDefaults
from xpsr_sdk.training.config import DataSection, LossSection, ModelSection, OptimizerSection, TrainConfig

PAGE = Path(__file__).parent / "configuration.md"
MODELS: tuple[type[Settings], ...] = (
    RestoreConfig, PipelineConfig, ModelDefaults, TrainConfig, ModelSection, DataSection, LossSection, OptimizerSection,
)  # fmt: skip
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table(model: type[Settings]) -> str:
    """A row for each field that the model does not inherit; groups of fields have tables of their own."""
    inherited = {name for base in model.__bases__ if issubclass(base, Settings) for name in base.model_fields}
    lines = ["| setting | type | default | range | meaning |", "|---|---|---|---|---|"]
    for option in _option_records(model.model_fields, {}):
        if option["name"] not in inherited and "." not in option["name"]:
            default = "required" if option["required"] else f"`{json.dumps(option['default'], ensure_ascii=False)}`"
            cells = [f"`{option['name']}`", option["type"], default, option["range"], option["meaning"]]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def options_table(command: click.Command) -> str:
    """A row for each option of a command."""
    lines = ["| option | setting | meaning |", "|---|---|---|"]
    for option in command.params:
        if isinstance(option, click.Option):
            lines.append(f"| `{', '.join(option.opts)}` | `{option.name}` | {option.help} |")
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """The page's text with every table made anew."""
    tables = {model.__name__: settings_table(model) for model in MODELS} | {"upscale": options_table(upscale)}
    return TABLE.sub(lambda match: f"{match[1]}\n{tables[match[2]]}\n{match[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
