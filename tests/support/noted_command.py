"""``xpsr`` with a runner whose workers note each photo that they begin."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xpsr_sdk.cli import runner_options
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.preparation.shards import PlannedShard
from xpsr_sdk.prompts.caption_folder import Batch
from xpsr_sdk.runners.work import Done, Runner, Work

NOTES = "XPSR_TEST_NOTES"
"""The environment variable that names the file of notes."""
PROGRAM = "from tests.support.noted_command import run; run()"
"""What Python runs: not this module itself, whose classes the workers would then not find."""


@dataclass(frozen=True)
class NotedWork:
    """A work that notes the photos of each input before it begins."""

    work: Work[Any, Any]
    notes: Path

    @contextmanager
    def warm(self) -> Iterator[Callable[[Any], Any]]:
        with self.work.warm() as do:
            yield partial(self._do, do)

    def _do(self, do: Callable[[Any], Any], given: Any) -> Any:
        with self.notes.open("a") as file:  # one write at the end of a file is not mixed with those of others
            file.write("".join(f"{name}\n" for name in photos_of(given)))
        return do(given)


@dataclass(frozen=True)
class NotedRunner:
    """A runner whose workers note what they begin."""

    runner: Runner
    notes: Path

    @property
    def in_this_process(self) -> bool:
        return self.runner.in_this_process

    def run(self, work: Work[Any, Any], inputs: Iterable[Any]) -> Generator[Done[Any, Any], None, None]:
        return self.runner.run(NotedWork(work, self.notes), inputs)


def photos_of(given: Any) -> list[str]:
    """The names of the photos of an input: of a shard, of a batch to describe, or of a photo to restore."""
    if isinstance(given, PlannedShard):
        return [name for _, name in given.photos]
    if isinstance(given, Batch):
        return [photo.file.stem for photo in given.photos]
    return [given[0].stem]


def run() -> None:
    """The command line."""
    find_runner = runner_options.find_runner
    runner_options.find_runner = lambda config: NotedRunner(find_runner(config), Path(os.environ[NOTES]))
    xpsr(prog_name="xpsr")
