"""``xpsr plugins``: the components that can be chosen, and their options."""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import indent
from typing import Any, Literal

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python
from rich import box
from rich.table import Table

from xpsr_sdk.cli.options import BOUNDS, bounds
from xpsr_sdk.cli.terminal import print_json, print_table
from xpsr_sdk.contracts import KINDS, kind_in_words
from xpsr_sdk.errors import visible
from xpsr_sdk.plugin_system.registered import PluginFailure, RegisteredComponent
from xpsr_sdk.plugin_system.registry import default_registry
from xpsr_sdk.plugin_system.scaffold import write_plugin

CALLS = {
    "prompt_provider": "build_pipeline(prompt_provider={})",
    "fusion_attention": "ModelSection(base='base', fusion={})",
    "degradation_model": "prepare_pairs(photos, output, degradation={})",
    "sampler": "build_pipeline(sampler={})",
    "backbone": "build_pipeline(backbone={})",
    "upscaler": "build_pipeline(upscaler={})",
    "metric": "evaluate_folders(restored, originals, metrics=[{}])",
    "loss_term": "LossSection(terms={{'my-term': {}}})",
}
"""For each kind, how to choose a component in Python."""
COMMANDS = {
    "prompt_provider": "xpsr upscale photo.jpg -o restored.png --prompt-provider {}",
    "degradation_model": "xpsr data prepare photos/ -o pairs/ --degradation {}",
    "sampler": "xpsr upscale photo.jpg -o restored.png --sampler {}",
    "upscaler": "xpsr upscale photo.jpg -o restored.png --upscaler {}",
    "metric": "xpsr evaluate restored/ originals/ --metrics {}",
}
"""For each kind, how to choose it on the command line."""
TABLES = {
    "prompt_provider": "prompt_provider",
    "fusion_attention": "model.fusion",
    "degradation_model": "data.degradation",
    "sampler": "sampler",
    "backbone": "backbone",
    "upscaler": "upscaler",
    "loss_term": "loss.terms.my-term",
}
"""For each kind, the table that chooses it in a config file."""
HEADINGS = {"python": "In Python", "command": "On the command line", "toml": "In a TOML file"}


@click.group(invoke_without_command=True)
@click.option("--kind", type=click.Choice(list(KINDS)), help="List the parts of one kind.")
@click.option("--short", is_flag=True, help="Print the names alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def plugins(ctx: click.Context, kind: str | None, short: bool, as_json: bool) -> None:
    """List the parts that can be chosen.

    Plug-ins are found in the entry-point group xpsr_sdk of the installed distributions. XPSR_PLUGINS limits
    them to a comma-separated list of distributions (empty: none). XPSR_STRICT=1 makes a broken plug-in an error.
    """
    if ctx.invoked_subcommand is not None:
        return
    with redirect_stdout(sys.stderr):  # plug-ins may print while they are loaded, which is not a result
        registry = default_registry()
    kinds = [kind] if kind else list(KINDS)
    components = [component for each in kinds for component in registry.components(each)]
    if as_json:
        print_json(
            {
                "components": [_component_record(component) for component in components],
                "failures": [_failure_record(failure) for failure in registry.failures],
            }
        )
    elif short:
        for each in kinds:
            names = [component.spec.name for component in components if component.kind == each]
            click.echo(visible(f"{each}: {', '.join(names)}", newline="\\n"))
    else:
        print_table(_listing(components, registry.failures))


@plugins.command()
@click.argument("kind", type=click.Choice(list(KINDS)), metavar="KIND")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(kind: str, name: str, as_json: bool) -> None:
    """Describe a part, with its options and an example.

    If two parts have the same name, write NAME as distribution:name.
    """
    with redirect_stdout(sys.stderr):
        registry = default_registry()
        component = registry.find(kind, name)
        fields = registry.resolve(kind, name).Config.model_fields
    options = list(option_records(fields, component.spec.defaults))
    examples = _examples(component, options)
    if as_json:
        print_json({**_component_record(component), "options": options, "examples": examples})
        return
    spec = component.spec
    click.echo(f"{spec.name}: {spec.summary}")
    click.echo(f"{kind_in_words(kind)} of {component.distribution} {component.version}, {spec.target}\n")
    if options:
        print_table(_option_table(options))
    else:
        click.echo("It has no options.")
    for where, example in examples.items():
        click.echo(f"\n{HEADINGS[where]}:\n\n{indent(example, '    ')}")


@plugins.command()
@click.argument("kind", type=click.Choice(list(KINDS)), metavar="KIND")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write, which must not exist.  [default: xpsr-NAME]",
)
def new(kind: str, name: str, output: Path | None) -> None:
    """Write a new plug-in to start from: a part that works, with its hook, packaging and tests.

    KIND is one of prompt_provider, fusion_attention, degradation_model, sampler, backbone, upscaler, metric and
    loss_term; NAME is what people will choose it by, for instance film-grain.
    """
    folder = write_plugin(kind, name, default_registry(), output)
    package = f"xpsr_{name.replace('-', '_')}"
    click.echo(f"{folder} is a {kind_in_words(kind)} that works; change it in {folder / package / kind}.py.\n")
    click.echo(f"    pip install -e '{folder}[test]'\n    pytest {folder}\n    xpsr plugins show {kind} {name}")


def _component_record(component: RegisteredComponent) -> dict[str, Any]:
    return {
        "kind": component.kind,
        "name": component.spec.name,
        "distribution": component.distribution,
        "version": component.version,
        "summary": component.spec.summary,
        "target": component.spec.target,
        "defaults": to_jsonable_python(dict(component.spec.defaults)),
        "state": component.state,
        "error": component.reason or None,
    }


def _failure_record(failure: PluginFailure) -> dict[str, str]:
    return {
        "distribution": failure.distribution,
        "version": failure.version,
        "error": failure.reason,
        "traceback": failure.traceback,
    }


def _listing(components: list[RegisteredComponent], failures: list[PluginFailure]) -> Table:
    table = _table("kind", "name", "distribution", "version", "summary", "state")
    for c in components:
        table.add_row(c.kind, c.spec.name, c.distribution, c.version, c.reason or c.spec.summary, c.state)
    for failure in failures:
        if all(failure.error is not component.error for component in components):
            table.add_row("?", "?", failure.distribution, failure.version, failure.reason, "broken")
    return table


def option_records(
    fields: Mapping[str, FieldInfo], defaults: Mapping[str, Any], prefix: str = ""
) -> Iterator[dict[str, Any]]:
    """A record for each option. An option in a group of options is called ``group.option``."""
    for name, field in fields.items():
        default = defaults.get(name, field.get_default(call_default_factory=True, validated_data={}))
        if isinstance(default, BaseModel):
            yield from option_records(type(default).model_fields, dict(default), f"{prefix}{name}.")
            continue
        required = default is PydanticUndefined
        yield {
            "name": prefix + name,
            "type": _type_words(field.annotation),
            "required": required,
            "default": None if required else to_jsonable_python(default, fallback=str, exclude_none=True),
            "range": _range_words(field),
            "meaning": field.description or "",
        }


def _type_words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(json.dumps(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_words(argument) for argument in arguments if argument is not type(None))
    if origin is typing.Annotated:
        return _type_words(arguments[0])
    if origin is not None:
        inside = ", ".join("..." if argument is ... else _type_words(argument) for argument in arguments)
        return f"{_type_words(origin)}[{inside}]"
    return getattr(annotation, "__name__", str(annotation))


def _range_words(field: FieldInfo) -> str:
    return ", ".join(f"{BOUNDS[name]} {value}" for name, value in bounds(field))


def _option_table(options: list[dict[str, Any]]) -> Table:
    table = _table("option", "type", "default", "range", "meaning")
    for option in options:
        default = "required" if option["required"] else json.dumps(option["default"], ensure_ascii=False)
        table.add_row(option["name"], option["type"], default, option["range"], option["meaning"])
    return table


def _examples(component: RegisteredComponent, options: list[dict[str, Any]]) -> dict[str, str]:
    """How to choose the component, with its options that are plain values. The user must replace each ``...``."""
    choice = {"name": component.spec.name}
    for option in options:
        plain = isinstance(option["default"], bool | int | float | str) and "." not in option["name"]
        if option["required"]:
            choice[option["name"]] = "..."
        elif plain and option["name"] not in component.spec.defaults:
            choice[option["name"]] = option["default"]
    examples = {"python": CALLS[component.kind].format(choice)}
    if component.kind in COMMANDS:
        examples["command"] = COMMANDS[component.kind].format(component.spec.name)
    if component.kind in TABLES:
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in choice.items()]
        examples["toml"] = "\n".join([f"[{TABLES[component.kind]}]", *lines])
    return examples


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("kind", "name", "option", "state"))
    return table
