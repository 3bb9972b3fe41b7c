"""A training run that is killed: what runs in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib import import_module
from typing import Any

from xpsr_sdk.training.config import TrainConfig
from xpsr_sdk.training.loop import train


def train_until(config: TrainConfig, where: str, call: int) -> None:
    """Train, and be killed when the function ``package.module:name`` is called for the ``call``-th time."""
    module, _, name = where.partition(":")
    *owners, function = name.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, function, _deadly(getattr(owner, function), call))
    train(config)


def _deadly(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    left = call

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    return wrapped
