"""Ctrl-C and SIGTERM as a wish to stop, which a command can ask for between two pieces of work."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click


@dataclass
class Wish:
    """Whether somebody wishes that the command stops.

    Attributes:
        exit_code: As shells have it: 128 and the number of the signal; 0: nobody does.
    """

    exit_code: int = 0

    def __bool__(self) -> bool:
        return self.exit_code != 0


@contextmanager
def interrupts(told: str, softly: Callable[[int], bool] = lambda number: True) -> Iterator[Wish]:
    """Within the block, Ctrl-C and SIGTERM are but a wish; a second one stops at once.

    Args:
        told: What is printed at the first one.
        softly: Whether a signal is a wish. The others stop at once, but as an exit, so that temporary files go.
    """
    wish = Wish()

    def handle(number: int, _: object) -> None:
        if wish or not softly(number):
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        wish.exit_code = 128 + number
        click.echo(told, err=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
