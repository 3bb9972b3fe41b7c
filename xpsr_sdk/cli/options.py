"""Options of commands that are settings: their type, choices and help are those of the config's field."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel

Command = TypeVar("Command", bound=Callable[..., Any])


def setting(config: type[BaseModel], field: str, flag: str | None = None) -> Callable[[Command], Command]:
    """An option that sets ``config.field``. It is None where it is not given, so that the config's default holds.

    Args:
        config: The model that has the field.
        field: The field's name, and that of the command's parameter.
        flag: The option. None: the field's name with hyphens.
    """
    info = config.model_fields[field]
    flag = flag or f"--{field.replace('_', '-')}"
    kind = _plain(info.annotation)
    if kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    help_text = (info.description or "") + _default_words(info.get_default(call_default_factory=True))
    return click.option(flag, field, type=_click_type(kind), default=None, help=help_text)


def _plain(annotation: Any) -> Any:
    """The type of a field without None, bounds and tables: the first that a word on the command line can be."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(arguments[0])
    if origin in (Union, types.UnionType):
        return _plain(arguments[0])
    return annotation


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    return click.Path(path_type=Path) if kind is Path else kind


def _default_words(default: Any) -> str:
    return "" if default is None or isinstance(default, bool | BaseModel) else f"  [default: {default}]"
