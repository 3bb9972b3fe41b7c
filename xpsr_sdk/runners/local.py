"""Works on this machine: in this process, or in processes of which each has its own GPU where there are several."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from xpsr_sdk.errors import WorkerLost, print_traceback
from xpsr_sdk.runners.crew import Spread
from xpsr_sdk.runners.hand import Answer, Hand
from xpsr_sdk.runners.parent import end_with_parent
from xpsr_sdk.runners.work import Done, Input, Output, PartlyFailed, Work, done_of

THREADS = "OMP_NUM_THREADS"
"""How many threads torch uses on the CPU."""
GRACE = 10.0
"""Seconds that an idle worker gets to end by itself."""
GPUS = "CUDA_VISIBLE_DEVICES"
"""The GPUs that a process sees."""


class LocalRunner:
    """Works in this process, or, with several workers, in as many processes.

    The processes are spawned, so a script that uses them needs the usual ``if __name__ == "__main__":``. They share the
    cores of the machine, unless ``OMP_NUM_THREADS`` says how many threads each has, and its GPUs one by one.

    Args:
        workers: The number of processes; 1: this process, unless there is a time limit.
        patience: Seconds after which a worker that does an input counts as hung; None: no limit.
    """

    def __init__(self, workers: int = 1, patience: float | None = None) -> None:
        self._workers, self._patience = workers, patience

    @property
    def in_this_process(self) -> bool:
        """See ``Runner``."""
        return self._workers == 1 and self._patience is None

    def run(self, work: Work[Input, Output], inputs: Iterable[Input]) -> Generator[Done[Input, Output], None, None]:
        """See ``Runner``. In this process, nothing is tried twice."""
        if self.in_this_process:
            return _run_here(work, inputs)
        return Spread(_Processes(work, self._workers), inputs, self._patience).run()


def _run_here(work: Work[Input, Output], inputs: Iterable[Input]) -> Generator[Done[Input, Output], None, None]:
    with work.warm() as do:
        for given in inputs:
            try:
                done = Done(given, do(given))
            except Exception as error:
                if not isinstance(error, PartlyFailed):
                    print_traceback()
                done = done_of(given, error)
            yield done


class _Processes:
    """Worker processes."""

    def __init__(self, work: Work[Any, Any], size: int) -> None:
        self.size, self._work = size, work

    def hire(self, place: int) -> _Process:
        """See ``Crew``."""
        with _environment(shares_of(place, self.size)):
            return _Process(self._work)

    def wait(self, workers: Sequence[_Process], seconds: float | None) -> list[_Process]:
        """See ``Crew``."""
        by_pipe = {worker.pipe: worker for worker in workers}
        return [by_pipe[pipe] for pipe in wait(list(by_pipe), seconds) if isinstance(pipe, Connection)]


class _Process:
    """A worker process, with a pipe to it."""

    def __init__(self, work: Work[Any, Any]) -> None:
        # Spawned: torch has started threads, and a fork of a process with threads may hang.
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self._process.start()  # fails if the work cannot be pickled
        self._is_busy = True
        theirs.close()

    def ask(self, given: Any) -> None:
        """See ``Worker``."""
        self._is_busy = True
        with suppress(BrokenPipeError):  # it died: so says its answer
            self.pipe.send(given)

    def answer(self) -> Answer:
        """See ``Worker``."""
        try:
            answer: Answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise WorkerLost(f"A worker died with exit code {self._process.exitcode}.") from None
        self._is_busy = False
        return answer

    def end(self) -> None:
        """See ``Worker``."""
        self.pipe.close()
        if not self._is_busy:  # it sees the end of its pipe, and gives its warm state back
            self._process.join(GRACE)
        self._process.kill()
        self._process.join()


def _serve(work: Work[Any, Any], pipe: Connection) -> None:
    """What a worker process does, until its pipe is closed."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first decides what it means
    hand = Hand(work)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(hand.get_ready())
        while True:
            pipe.send(hand.do(pipe.recv()))
    hand.close()


def shares_of(place: int, size: int) -> dict[str, str]:
    """What a worker process is told of its share of the machine: its cores, and one of the GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = {} if THREADS in os.environ else {THREADS: str(max(1, cores // size))}
    gpus = visible_gpus()
    return shares | ({GPUS: gpus[place % len(gpus)]} if len(gpus) > 1 else {})


def visible_gpus() -> list[str]:
    """The names of the GPUs of CUDA that this process sees."""
    import torch  # imported late, to keep --help quick

    if GPUS in os.environ:
        return [name for name in os.environ[GPUS].split(",") if name not in ("", "-1")]
    return [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within the block, processes that are started get these environment variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
