"""Progress on standard error: a bar on a terminal, and else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from xpsr_sdk.cli.terminal import complain, is_first_process, is_quiet
from xpsr_sdk.errors import visible

LINE_SHARE, LINE_SECONDS = 0.1, 60.0
"""A line is printed after this share of the work, or after so many seconds."""


def progress_bar() -> Progress | ProgressLines:
    """Progress on standard error, so that standard output stays for results."""
    console = Console(stderr=True)
    if not console.is_terminal and is_first_process() and not is_quiet():
        return ProgressLines()
    return Progress(
        _Description("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or is_quiet(),
        transient=True,
    )


class _Description(TextColumn):
    """What is done now. Of a file's name in it, what a terminal would take for a command is escaped."""

    def render(self, task: Task) -> Text:
        """See rich."""
        return Text(visible(task.description, newline="\\n"))


class ProgressLines:
    """The progress of one task as lines, for logs and pipes. The last line is missing: the command says what it did."""

    def __init__(self) -> None:
        self._description, self._total = "", 0.0
        self._completed, self._shown, self._shown_at = 0.0, 0.0, time.monotonic()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        pass

    def add_task(self, description: str, total: float | None = None) -> TaskID:
        """As ``rich.progress.Progress`` has it."""
        self._description, self._total = description, total or 0.0
        return TaskID(0)

    def update(
        self,
        task: TaskID,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float = 0.0,
        description: str | None = None,
    ) -> None:
        """As ``rich.progress.Progress`` has it."""
        self._description = self._description if description is None else description
        self._total = total or self._total
        self._completed = (self._completed if completed is None else completed) + advance
        if not 0 < self._completed < self._total:
            return
        share, now = self._completed / self._total, time.monotonic()
        if share - self._shown >= LINE_SHARE - 1e-9 or now - self._shown_at >= LINE_SECONDS:
            self._shown, self._shown_at = share, now
            complain(f"{share:.0%}, {int(self._completed)} of {self._total:g} done, {self._description}")
