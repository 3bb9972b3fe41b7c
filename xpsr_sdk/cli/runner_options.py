"""Options that say where a work on many photos is done: ``--runner``, ``--workers`` and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from xpsr_sdk.cli.options import setting
from xpsr_sdk.config import RunnerConfig, load_config
from xpsr_sdk.runners.choice import find_runner

Command = TypeVar("Command", bound=Callable[..., Any])
RUNNER_OPTIONS = tuple(RunnerConfig.model_fields)
"""The parameters of these options."""


def runner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, which a command gets as one argument, ``runner``."""

    @wraps(command)
    def with_runner(*args: Any, **options: Any) -> Any:
        chosen = {name: value for name in RUNNER_OPTIONS if (value := options.pop(name)) is not None}
        return command(*args, runner=find_runner(load_config(RunnerConfig, chosen, "The runner")), **options)

    for name in reversed(RUNNER_OPTIONS):
        with_runner = setting(RunnerConfig, name)(with_runner)
    return with_runner
