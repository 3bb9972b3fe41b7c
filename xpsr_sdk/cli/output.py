"""What commands print on standard output: tables for people, JSON for programs."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 240
"""Columns when the output is not a terminal: lines are then rarely folded, and can be searched."""


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal. Square brackets in its cells are not taken for markup."""
    console = Console()
    width = console.width if console.is_terminal else PIPE_WIDTH
    Console(width=width, markup=False, highlight=False).print(table)
