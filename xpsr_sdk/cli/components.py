"""Options that choose a part on the command line: ``--sampler NAME`` and ``--sampler-option KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from xpsr_sdk.config import Component, set_override
from xpsr_sdk.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])


def part_options(flag: str) -> Callable[[Command], Command]:
    """The option ``--FLAG-option KEY=VALUE`` of a command that has ``--FLAG NAME``."""
    return click.option(
        f"--{flag}-option", multiple=True, metavar="KEY=VALUE", help=f"An option of the {flag.replace('-', ' ')}."
    )


def with_options(flag: str, name: str | None, options: Sequence[str], own: Component | None = None) -> Component | None:
    """The chosen part, with its options from the command line.

    Args:
        flag: The flag that chooses the part, without dashes: ``"sampler"``.
        name: The value of ``--FLAG``.
        options: The values of ``--FLAG-option``, ``"KEY=VALUE"`` each.
        own: The part that is chosen elsewhere, for instance in a file.

    Raises:
        ConfigError: There are options, but no part is named; or an option is not KEY=VALUE.
    """
    if not options:
        return name
    chosen = name or own
    if chosen is None:
        raise ConfigError(f"--{flag}-option {options[0]} needs the name of the part: add --{flag} NAME.")
    table: dict[str, Any] = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
    for option in options:
        set_override(table, option)
    return table
