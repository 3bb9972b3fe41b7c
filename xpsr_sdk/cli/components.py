"""How a part is chosen on the command line: ``--sampler NAME``, and ``--sampler-option KEY=VALUE`` for each option."""

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
    """A part with the options that the command line gives it.

    Args:
        flag: What chooses it, without dashes: ``"sampler"``.
        name: What ``--FLAG`` says.
        options: What ``--FLAG-option`` says, ``"KEY=VALUE"`` each.
        own: What is chosen elsewhere, for instance in a file.

    Raises:
        ConfigError: There are options, but no part is named; or one of them is not KEY=VALUE.
    """
    if not options:
        return name
    chosen = name or own
    if chosen is None:
        raise ConfigError(f"--{flag}-option {options[0]} belongs to a part that is not named: add --{flag} NAME.")
    table: dict[str, Any] = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
    for option in options:
        set_override(table, option)
    return table
