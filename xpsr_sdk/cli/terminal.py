"""How commands print: tables for people, JSON for programs, progress bars, warnings and tracebacks."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xpsr_sdk.errors import print_traceback as print_traceback
from xpsr_sdk.errors import visible

Command = TypeVar("Command", bound=Callable[..., Any])
PIPE_WIDTH = 240
"""Columns if the output is not a terminal. Lines are then rarely folded, and can be searched."""


QUIET = "xpsr_sdk.cli.terminal.quiet"
"""Where click keeps for a command whether it is quiet."""


def quiet_option(command: Command) -> Command:
    """The option ``--quiet`` of a command."""

    def be_quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[QUIET] = value

    words = "Print no progress and no summary: only what failed, and warnings."
    return click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=be_quiet, help=words)(command)


def is_quiet() -> bool:
    """Whether the command that is running is to print what went wrong alone."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(QUIET))


def say(text: str, err: bool = False) -> None:
    """Print what the command did, unless it is quiet."""
    if not is_quiet():
        click.echo(visible(text, newline="\\n"), err=err)


def complain(text: str) -> None:
    """Print what went wrong as one line, in which what a terminal would take for a command is escaped."""
    click.echo(visible(text, newline="\\n"), err=True)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def json_line(value: object) -> str:
    """A value as JSON in one line."""
    return visible(json.dumps(value, ensure_ascii=False))


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal, and below it its caption. Square brackets are not read as markup."""
    console = Console()
    width = console.width if console.is_terminal else PIPE_WIDTH
    caption, table.caption = table.caption, None  # which rich would fold to the width of a narrow table
    _Console(width=width, markup=False, highlight=False).print(table)
    if caption:
        click.echo(visible(str(caption)))


class _Console(Console):
    """Escapes in cells what a terminal would take for a command."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See rich."""
        return super().render_str(visible(text, newline="\\n"), **options)


def is_first_process() -> bool:
    """Whether this is the first of the processes that a launcher started. Only this one prints."""
    return os.environ.get("RANK", "0") == "0"


def leave_processes() -> None:
    """End the process group, if a launcher started several processes."""
    from accelerate import PartialState

    PartialState().destroy_process_group()


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Within the block, print warnings for users as lines on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_: complain(f"Warning: {message}")
        yield


def quiet_libraries() -> None:
    """Hide the warnings of libraries, which are meant for programmers. Their errors are still shown."""
    os.environ["TRANSFORMERS_VERBOSITY"] = os.environ["DIFFUSERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    for name in ("bitsandbytes", "huggingface_hub", "pyvips"):
        logging.getLogger(name).setLevel(logging.ERROR)
