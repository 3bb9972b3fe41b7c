"""The runner that was chosen: the one of this machine, or one that an installed distribution offers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from xpsr_sdk.config import RunnerConfig
from xpsr_sdk.errors import BrokenPlugin, ConfigError, UnknownComponent, XPSRError, did_you_mean, one_line
from xpsr_sdk.runners.local import LocalRunner, visible_gpus
from xpsr_sdk.runners.work import Runner

GROUP = "xpsr_sdk.runners"
"""Entry points of this group are runners: a name, and what makes the runner of a ``RunnerConfig``."""
LOCAL = "local"


def find_runner(config: RunnerConfig) -> Runner:
    """The runner that was chosen.

    Raises:
        ConfigError: The runner has no such setting.
        UnknownComponent: No installed distribution offers such a runner.
        BrokenPlugin: It cannot be imported.
    """
    if config.runner == LOCAL:
        if config.address is not None or config.worker_gpus is not None:
            setting = "address" if config.address is not None else "worker_gpus"
            raise ConfigError(
                f"The runner 'local' has no {setting}: choose another runner, such as ray, or leave it out."
            )
        return LocalRunner(_gpus_here() if config.workers == "gpus" else config.workers, config.worker_timeout)
    offered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if config.runner not in offered:
        hint = " Install it: pip install xpsr-ray." if config.runner == "ray" else ""
        known = did_you_mean(config.runner, {LOCAL, *offered})
        raise UnknownComponent(f"No installed distribution offers the runner {config.runner!r}. {known}{hint}")
    entry = offered[config.runner]
    try:
        make: Callable[[RunnerConfig], Runner] = entry.load()
        return make(config)
    except XPSRError:
        raise
    except Exception as error:
        source = f" of {entry.dist.name}" if entry.dist else ""
        raise BrokenPlugin(f"The runner {config.runner!r}{source} cannot be used: {one_line(error)}") from error


def _gpus_here() -> int:
    gpus = len(visible_gpus())
    if not gpus:
        raise ConfigError("This machine has no GPU of CUDA to start workers for: say how many workers (--workers 2).")
    return gpus
