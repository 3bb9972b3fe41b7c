"""Hands inputs to workers, wherever those are.

Each worker gets one input at a time. An input that fails is tried once more on another worker. A worker that takes too
long for an input is replaced.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from xpsr_sdk.errors import WorkerLost, XPSRError, one_line
from xpsr_sdk.runners.hand import Answer
from xpsr_sdk.runners.work import Done, Input, PartlyFailed, done_of

TRIES = 2
"""How often an input is tried."""
START = 60.0
"""Seconds that an input waits for another worker to get ready, which a cluster may have no place for."""
_log = logging.getLogger(__name__)


class Worker(Protocol):
    """One place that works. It is asked for one thing at a time: at first to get ready, then to do an input."""

    def ask(self, given: Any) -> None:
        """Hand over an input; the answer comes later."""

    def answer(self) -> Answer:
        """The answer, after ``Crew.wait`` said that there is one.

        Raises:
            WorkerLost: The worker died.
        """

    def end(self) -> None:
        """End the worker, whatever it does."""


OneWorker = TypeVar("OneWorker", bound=Worker)


class Crew(Protocol[OneWorker]):
    """Makes workers, and waits for them.

    Attributes:
        size: The most workers at a time.
    """

    size: int

    def hire(self, place: int) -> OneWorker:
        """Start a worker, which gets ready. ``place`` is its number, from 0; one that replaces another has its number.

        Raises:
            Exception: The work cannot be sent to a worker.
        """

    def wait(self, workers: Sequence[OneWorker], seconds: float | None) -> Sequence[OneWorker]:
        """Those of the workers that have an answer or died, after at most so many seconds."""


@dataclass(eq=False)
class Task(Generic[Input]):
    """An input on its way, how often it was tried, and the number of the worker that tried it."""

    given: Input
    tries: int = 0
    place: int = -1


@dataclass(eq=False)
class Post(Generic[Input, OneWorker]):
    """A worker at its place, and what it does."""

    place: int
    worker: OneWorker
    task: Task[Input] | None = None
    is_ready: bool = False
    since: float = 0.0


class Spread(Generic[Input, OneWorker]):
    """One run: the inputs that wait, and the workers.

    Args:
        crew: Makes the workers.
        inputs: The inputs.
        patience: Seconds after which a worker that does an input counts as hung; None: no limit.
    """

    def __init__(self, crew: Crew[OneWorker], inputs: Iterable[Input], patience: float | None) -> None:
        self._crew, self._patience = crew, patience
        self._inputs = iter(inputs)
        self._waiting: deque[Task[Input]] = deque()
        self._posts: dict[int, Post[Input, OneWorker]] = {}

    def run(self) -> Generator[Done[Input, Any], None, None]:
        """See ``Runner.run``."""
        self._waiting.extend(map(Task, islice(self._inputs, self._crew.size)))
        try:
            for place in range(len(self._waiting)):
                self._hire(place)
            while self._assign():
                yield from self._finished()
        finally:
            for post in self._posts.values():
                post.worker.end()

    def _hire(self, place: int) -> None:
        self._posts[place] = Post(place, self._crew.hire(place), since=time.monotonic())

    def _assign(self) -> bool:
        """Give every free worker its next input. False: all is done."""
        for post in self._posts.values():
            if post.is_ready and post.task is None and (task := self._next_for(post.place)):
                post.task, post.since = task, time.monotonic()
                task.tries, task.place = task.tries + 1, post.place
                post.worker.ask(task.given)
        if not any(post.task for post in self._posts.values()):  # no worker is ready: is there anything to wait for?
            self._waiting.extend(map(Task, islice(self._inputs, 0 if self._waiting else 1)))
            return bool(self._waiting)
        return True

    def _next_for(self, place: int) -> Task[Input] | None:
        """An input that waits and was not tried here, unless no other worker is expected; else a new one."""
        others = (post for post in self._posts.values() if post.place != place)
        is_alone = not any(post.is_ready or time.monotonic() - post.since < START for post in others)
        for task in self._waiting:
            if task.place != place or is_alone:
                self._waiting.remove(task)
                return task
        return next(map(Task, islice(self._inputs, 1)), None)

    def _finished(self) -> Iterator[Done[Input, Any]]:
        """Wait for the next answers, and for workers that hang."""
        busy = {post.worker: post for post in self._posts.values() if post.task or not post.is_ready}
        for worker in self._crew.wait(list(busy), self._seconds_left(busy.values())):
            post = busy[worker]
            try:
                answer = worker.answer()
            except WorkerLost as error:
                yield from self._replace(post, error)
            else:
                yield from self._take(post, answer)
        for post in busy.values():
            if self._hangs(post):
                yield from self._replace(
                    post, WorkerLost(f"A worker took more than {self._patience:g} seconds for it.")
                )

    def _take(self, post: Post[Input, OneWorker], answer: Answer) -> Iterator[Done[Input, Any]]:
        for message in answer.warnings:
            warnings.warn(message, stacklevel=2)
        if not post.is_ready:
            post.is_ready = answer.error is None
            if answer.error is not None:
                self._leave(post, answer.error)
            else:
                _log.info("Worker %d is ready after %.1f seconds.", post.place + 1, time.monotonic() - post.since)
            return
        task, post.task = post.task, None
        assert task is not None
        yield from self._ended(task, answer)

    def _ended(self, task: Task[Input], answer: Answer) -> Iterator[Done[Input, Any]]:
        if answer.error is None:
            yield Done(task.given, answer.value)
        elif task.tries < TRIES:
            if isinstance(answer.error, PartlyFailed):
                task.given = answer.error.failed
                if answer.error.others:
                    yield Done(*answer.error.others)
            self._waiting.append(task)
        else:
            yield done_of(task.given, answer.error)

    def _replace(self, post: Post[Input, OneWorker], error: WorkerLost) -> Iterator[Done[Input, Any]]:
        """Another worker for one that is lost; none for one that was lost before it was ready."""
        task, post.task = post.task, None
        if not post.is_ready:
            self._leave(post, error)
            return
        post.worker.end()
        self._hire(post.place)
        if task:
            yield from self._ended(task, Answer(error=error))

    def _leave(self, post: Post[Input, OneWorker], error: Exception) -> None:
        """Go on without a worker that cannot begin, if there are others. What is wrong for all is raised."""
        post.worker.end()
        del self._posts[post.place]
        is_wrong_for_all = isinstance(error, XPSRError) and not isinstance(error, WorkerLost)
        if is_wrong_for_all or not self._posts:
            raise error
        warnings.warn(f"A worker cannot begin, and the others go on without it: {one_line(error)}", stacklevel=2)

    def _hangs(self, post: Post[Input, OneWorker]) -> bool:
        return bool(self._patience and post.task and time.monotonic() - post.since > self._patience)

    def _seconds_left(self, posts: Iterable[Post[Input, OneWorker]]) -> float | None:
        """How long to wait: until the first of the workers counts as hung, or an input has waited for long enough."""
        limits = [1.0] if self._waiting else []
        if self._patience:
            limits += [max(0.0, p.since + self._patience - time.monotonic()) + 0.01 for p in posts if p.task]
        return min(limits, default=None)
