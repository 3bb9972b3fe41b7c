"""How commands print: tables for people, JSON for programs, progress bars, warnings and tracebacks."""

from __future__ import annotations

import json
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPE_WIDTH = 240
"""Columns if the output is not a terminal. Lines are then rarely folded, and can be searched."""


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal. Square brackets in its cells are not read as markup."""
    console = Console()
    width = console.width if console.is_terminal else PIPE_WIDTH
    Console(width=width, markup=False, highlight=False).print(table)


def progress_bar() -> Progress:
    """A progress bar on standard error, since standard output is for results. Hidden if that is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def print_traceback() -> None:
    """Print the traceback of the current error, if the environment variable ``XPSR_TRACEBACK`` is 1."""
    if os.environ.get("XPSR_TRACEBACK") == "1":
        traceback.print_exc()


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
        warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
        yield


def quiet_libraries() -> None:
    """Hide the warnings of libraries, which are meant for programmers. Their errors are still shown."""
    os.environ["TRANSFORMERS_VERBOSITY"] = os.environ["DIFFUSERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    for name in ("bitsandbytes", "pyvips"):
        logging.getLogger(name).setLevel(logging.ERROR)
