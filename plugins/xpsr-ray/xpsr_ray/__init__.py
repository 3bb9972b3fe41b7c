"""Spreads works of ``xpsr_sdk`` over a Ray cluster: ``--runner ray``.

Ray finds the machines, starts the workers there (an actor each), ships inputs and outputs, and tells which worker or
machine is lost. Which input is tried where, and how often, is decided by ``xpsr_sdk.runners.crew``, as on one machine.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from xpsr_sdk import ConfigError, Done, RunnerConfig, Work, WorkerLost
from xpsr_sdk.toolkit import Answer, Hand, Spread, one_line

if TYPE_CHECKING:
    import ray

Input = TypeVar("Input")
Output = TypeVar("Output")


class RayRunner:
    """Works on a Ray cluster, with an actor for each worker.

    Without an address, the cluster is the one that ``RAY_ADDRESS`` or a running ``ray start`` names; if there is none,
    one is started on this machine, and ended after the work. A program that has called ``ray.init`` keeps its own.

    Args:
        config: The number of workers, the address, the GPUs of a worker, and the limit of patience.
    """

    in_this_process = False

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config

    def run(self, work: Work[Input, Output], inputs: Iterable[Input]) -> Generator[Done[Input, Output], None, None]:
        """See ``xpsr_sdk.runners.work.Runner``."""
        with _connected(self._config.address):
            yield from Spread(_Actors(work, self._config), inputs, self._config.worker_timeout).run()


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Within the block, this process belongs to a cluster."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    except Exception as error:
        where = address or "of this machine"
        raise ConfigError(f"The Ray cluster {where} cannot be used: {one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


class _Actors:
    """Workers on a cluster."""

    def __init__(self, work: Work[Any, Any], config: RunnerConfig) -> None:
        import ray

        there, gpus = ray.cluster_resources().get("GPU", 0.0), config.worker_gpus
        if gpus is None:
            gpus = 1.0 if there else 0.0
        self.size = config.workers if config.workers != "gpus" else int(there / (gpus or 1.0))
        if not self.size:
            raise ConfigError("The cluster has no GPU to start workers for: say how many workers (--workers 2).")
        self._check(self.size, gpus)
        # Spread over the machines: a work needs its GPU, its memory and its network for itself.
        self._make = ray.remote(Hand).options(num_cpus=1, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")
        self._work = ray.put(work)  # once in the cluster, not once a worker

    def _check(self, workers: int, gpus: float) -> None:
        """Refuse what would wait for ever."""
        import ray

        there = ray.cluster_resources()
        for resource, needed in (("CPU", workers), ("GPU", workers * gpus)):
            if needed > there.get(resource, 0):
                raise ConfigError(
                    f"{workers} workers need {needed:g} {resource}s, and the cluster has {there.get(resource, 0):g}: "
                    "start fewer (--workers), or share GPUs (--worker-gpus)."
                )

    def hire(self, place: int) -> _Actor:
        """See ``Crew``."""
        return _Actor(self._make.remote(self._work))

    def wait(self, workers: Sequence[_Actor], seconds: float | None) -> list[_Actor]:
        """See ``Crew``."""
        import ray

        by_call = {worker.call: worker for worker in workers}
        calls = list(by_call)
        ready, _ = ray.wait(calls, timeout=seconds)
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0) if ready else (ready, None)
        return [by_call[call] for call in ready]


class _Actor:
    """A worker on a cluster, and its call that has not been answered."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.call: ray.ObjectRef[Answer] = actor.get_ready.remote()

    def ask(self, given: Any) -> None:
        """See ``Worker``."""
        self.call = self._actor.do.remote(given)

    def answer(self) -> Answer:
        """See ``Worker``."""
        import ray

        try:
            answer: Answer = ray.get(self.call)
        except ray.exceptions.RayError as error:  # the process or the machine is gone, or what it held
            raise WorkerLost(f"A worker of the cluster is lost: {type(error).__name__}.") from None
        return answer

    def end(self) -> None:
        """See ``Worker``."""
        import ray

        with suppress(Exception):  # it may be gone already, and so may the cluster
            ray.kill(self._actor)
