"""Progress on standard error: a bar on a terminal, and else a line now and then."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from xpsr_sdk.cli.terminal import complain, is_first_process, is_quiet
from xpsr_sdk.errors import visible

LINE_SHARE, LINE_SECONDS = 0.1, 60.0
"""A line is printed at the end of a step after this share of the work, or after so many seconds."""
PACE_SECONDS, PACE_STEPS = 600.0, 1000
"""The pace is measured over the last so many seconds, and the last so many steps."""


def progress_bar() -> Progress:
    """Progress on standard error, so that standard output stays for results."""
    console = Console(stderr=True)
    if not console.is_terminal and is_first_process() and not is_quiet():
        return ProgressLines()
    return Progress(
        _Description("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Figures("", markup=False),
        _Remaining(),
        console=console,
        disable=not console.is_terminal or is_quiet(),
        transient=True,
    )


@contextmanager
def photo_progress(description: str) -> Iterator[PhotoProgress]:
    """Progress of a work on many photos: how many are done, how many a second, and what failed."""
    with progress_bar() as bar, _workers_told():
        yield PhotoProgress(bar, bar.add_task(description, total=None))


@contextmanager
def _workers_told() -> Iterator[None]:
    """Within the block, print which workers are ready, unless the command is quiet."""
    logger, teller = logging.getLogger("xpsr_sdk.runners"), _Teller()
    level = logger.level
    if not is_quiet():
        logger.addHandler(teller)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.setLevel(level)


class _Teller(logging.Handler):
    """Prints what is logged as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging``."""
        complain(record.getMessage())


class PhotoProgress:
    """Shows how far a work on many photos is. Its methods are what the works call ``progress`` and ``on_failure``.

    Args:
        bar: Where it is shown.
        task: The task there.
        clock: Gives the time in seconds.
    """

    def __init__(self, bar: Progress, task: TaskID, clock: Callable[[], float] = time.monotonic) -> None:
        self._bar, self._task, self._clock = bar, task, clock
        self._steps: deque[tuple[float, float]] = deque(maxlen=PACE_STEPS)
        self._began = clock()
        self._failed, self._last = 0, ""

    def tell(self, done: float, total: int, now: str | None = None) -> None:
        """So many photos are done. What the first call tells may be of an earlier run, and counts for no pace."""
        time_now = self._clock()
        self._steps.append((time_now if self._steps else self._began, done))
        while self._steps[0][0] < time_now - PACE_SECONDS and len(self._steps) > 2:
            self._steps.popleft()
        self._bar.update(self._task, completed=done, total=total, description=now, figures=self._figures())

    def tell_within(self, done: float, words: str) -> None:
        """The photo in work has come so far: ``done`` is no whole number. It counts for no pace."""
        figures = ", ".join(filter(None, [self._figures(), f"{words[0].lower()}{words[1:]}"]))
        self._bar.update(self._task, completed=done, figures=figures)

    def fail(self, photo: Path, reason: str) -> None:
        """A photo failed. Why is told at the end, or by the caller."""
        self._failed, self._last = self._failed + 1, photo.name
        self._bar.update(self._task, figures=self._figures())

    def _figures(self) -> str:
        pace = self._pace()
        parts = [f"{pace:.0f} photos/s" if pace >= 100 else f"{pace:.3g} photos/s"] if pace else []
        if self._failed:
            parts.append(f"{self._failed} failed (last: {self._last})")
        return ", ".join(parts)

    def _pace(self) -> float:
        """Photos a second; 0 if nothing is known."""
        if len(self._steps) < 2:
            return 0.0
        (began, before), (now, done) = self._steps[0], self._steps[-1]
        return (done - before) / (now - began) if now > began else 0.0


class _Description(TextColumn):
    """What is done now. Of a file's name in it, what a terminal would take for a command is escaped."""

    def render(self, task: Task) -> Text:
        """See rich."""
        return Text(visible(task.description, newline="\\n"))


class _Figures(TextColumn):
    """The pace, and what failed."""

    def render(self, task: Task) -> Text:
        """See rich."""
        return Text(visible(task.fields.get("figures", ""), newline="\\n"))


class _Remaining(TimeRemainingColumn):
    """The time that is left, once something is done from which it can be told."""

    def render(self, task: Task) -> Text:
        """See rich."""
        return super().render(task) if task.completed >= 1 else Text("")


class ProgressLines(Progress):
    """The progress of one task as lines, for logs and pipes. The last line is missing: the command says what it did."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self._shown, self._shown_at = 0.0, time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See rich."""
        super().update(task_id, **changes)
        [task] = self.tasks
        if not task.total or not 0 < task.completed < task.total:
            return
        share, now = task.completed / task.total, time.monotonic()
        is_step = task.completed == int(task.completed)  # of what is within a step, only what takes long is told
        if (is_step and share - self._shown >= LINE_SHARE - 1e-9) or now - self._shown_at >= LINE_SECONDS:
            self._shown, self._shown_at = share, now
            counts = f"{share:.0%}, {int(task.completed)} of {task.total:.0f} done"
            complain(", ".join(filter(None, [counts, task.fields.get("figures"), task.description])))
