"""Makes command-line options of settings. Type, choices, range and help come from the field of the config."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Command = TypeVar("Command", bound=Callable[..., Any])
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
"""pydantic's names of the bounds of a field, and how they are written."""


def setting(config: type[BaseModel], field: str, flag: str | None = None) -> Callable[[Command], Command]:
    """An option that sets ``config.field``. If it is not given, it is None, so that the config's default applies.

    Args:
        config: The pydantic model that has the field.
        field: The name of the field and of the command's parameter.
        flag: The option. None: the name of the field, with hyphens.
    """
    info = config.model_fields[field]
    flag = flag or f"--{field.replace('_', '-')}"
    kind = _plain(info.annotation)
    if kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    help_text = (info.description or "") + _default_words(info)
    several = get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis
    if several:
        kind, help_text = get_args(kind)[0], f"{help_text} The option may be repeated."
    words, value_type = _words(info.annotation), _click_type(kind, dict(bounds(info)))
    return click.option(
        flag,
        field,
        type=NumberOrWord(value_type, words) if words else value_type,
        metavar="|".join(["N", *words]) if words else None,
        default=None,
        multiple=several,
        callback=(lambda _context, _parameter, value: value or None) if several else None,
        help=help_text,
    )


class NumberOrWord(click.ParamType):  # type: ignore[type-arg]  # it takes an argument from click 8.3 on alone
    """A number, or one of some words."""

    name = "number or word"

    def __init__(self, number: Any, words: Sequence[str]) -> None:
        self._number, self._words = number, words

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number or the word."""
        if value in self._words:
            return value
        if isinstance(value, str) and not value.lstrip("-").isdecimal():
            self.fail(f"{value!r} is not valid: write a number, or {' or '.join(self._words)}.", param, ctx)
        return self._number.convert(value, param, ctx)


def _words(annotation: Any) -> tuple[str, ...]:
    """The words that a field may hold instead of a number."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    return tuple(word for part in parts[1:] if get_origin(part) is Literal for word in get_args(part))


def bounds(field: FieldInfo) -> Iterator[tuple[str, Any]]:
    """The range of a field, ``("ge", 1)`` for instance if it must be 1 or more. The names are keys of ``BOUNDS``."""
    # The bounds of ``Annotated[int, Field(ge=1)] | None`` lie in the first part of the union.
    parts = [info for part in get_args(field.annotation) for info in getattr(part, "__metadata__", ())]
    inside = [item for info in parts for item in getattr(info, "metadata", [info])]
    for item in [*field.metadata, *inside]:
        yield from ((name, value) for name in BOUNDS if (value := getattr(item, name, None)) is not None)


def _plain(annotation: Any) -> Any:
    """The first type of a field, without None and bounds. It can be written on the command line; tables cannot."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(arguments[0])
    if origin in (Union, types.UnionType):
        return _plain(arguments[0])
    return annotation


def _click_type(kind: Any, limits: dict[str, Any]) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind), case_sensitive=False)
    if kind in (int, float) and limits:
        least, most = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
        in_range: Any = click.IntRange if kind is int else click.FloatRange
        return in_range(least, most, min_open="gt" in limits, max_open="lt" in limits)
    return click.Path(path_type=Path) if kind is Path else kind


def _default_words(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    if info.is_required() or default is None or isinstance(default, bool | BaseModel):
        return ""
    return f"  [default: {default}]"
