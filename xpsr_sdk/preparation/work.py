"""The preparation of photos as a work that a runner spreads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch

from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.preparation.preparer import Preparer
from xpsr_sdk.preparation.recipe import Recipe

Task = TypeVar("Task")
Made = TypeVar("Made")


@dataclass(frozen=True)
class PreparationWork(Generic[Task, Made]):
    """Makes something of each task: ``make(preparer, task)``."""

    make: Callable[[Preparer, Task], Made]
    recipe: Recipe
    registry: Registry

    @contextmanager
    def warm(self) -> Iterator[Callable[[Task], Made]]:
        """See ``Work``."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the same everywhere, since the number of threads may change how a kernel rounds
        try:
            yield partial(self.make, Preparer(self.recipe, self.registry))
        finally:
            torch.set_num_threads(threads)
