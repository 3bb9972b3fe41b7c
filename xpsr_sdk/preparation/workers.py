"""Runs tasks over many photos, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import torch

from xpsr_sdk.data.workers import end_with_parent
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.preparation.preparer import Preparer
from xpsr_sdk.preparation.recipe import Recipe

Task = TypeVar("Task")
Done = TypeVar("Done")


def run_tasks(
    make: Callable[[Preparer, Task], Done], recipe: Recipe, registry: Registry, tasks: Sequence[Task], workers: int
) -> Iterator[Done]:
    """The results of ``make`` for each task, in order, computed in this process or in several.

    Raises:
        PluginError: A component is unknown or broken, or a worker cannot import a plug-in, see ``Registry``.
    """
    preparer = Preparer(recipe, registry)  # raises errors of the recipe before any process is started
    if workers > 1:
        # Workers are spawned: torch has started threads, and a fork of a process with threads may hang.
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (recipe, registry)) as pool:
            yield from pool.map(partial(_in_worker, make), tasks)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker, since the number of threads may change how a kernel rounds
    try:
        yield from (make(preparer, task) for task in tasks)
    finally:
        torch.set_num_threads(threads)


_preparer: Preparer
"""The preparer of this process, if it is a worker."""


def _start_worker(recipe: Recipe, registry: Registry) -> None:
    global _preparer
    end_with_parent()
    torch.set_num_threads(1)
    _preparer = Preparer(recipe, registry)


def _in_worker(make: Callable[[Preparer, Task], Done], task: Task) -> Done:
    return make(_preparer, task)
