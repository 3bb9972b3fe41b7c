"""The contract between a work on many photos and the runner that spreads it.

A work says how to build its warm state once (models, parts), and what to do with one input: a photo or a batch. A
runner builds that state once in each of its workers, and hands every input to one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from xpsr_sdk.errors import XPSRError, one_line

Input = TypeVar("Input")
Output = TypeVar("Output")
In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)


class Work(Protocol[In, Out]):
    """Something to do with many inputs. It is sent to the workers, so it must be possible to pickle it."""

    def warm(self) -> AbstractContextManager[Callable[[In], Out]]:
        """Build what every input needs, once in each worker. Gives the function of one input.

        The function may raise ``PartlyFailed``, so that what failed of an input is tried by another worker.
        """


@dataclass(frozen=True)
class Done(Generic[Input, Output]):
    """What came of an input.

    Attributes:
        given: The input.
        output: What the function gave; None if there is an error.
        error: What the function raised, or why there was no answer; None if there is an output.
    """

    given: Input
    output: Output | None = None
    error: Exception | None = None

    def result(self) -> Output:
        """The output.

        Raises:
            Exception: The error, if there is one.
        """
        if self.error is not None:
            raise self.error
        return self.output  # type: ignore[return-value]  # which may be None for works that give None

    @property
    def reason(self) -> str:
        """The error in one line; empty if there is none."""
        if self.error is None:
            return ""
        return str(self.error) if isinstance(self.error, XPSRError) else one_line(self.error)


class PartlyFailed(Exception):
    """Some of an input failed, and another worker may be able to do it.

    The runner gives that part to another worker once. In a single process, and after the last try, the output counts
    as it is.

    Args:
        output: The output for the whole input, with the failures in it.
        failed: The part of the input that failed.
        others: The rest of the input, and the output for it; None if there is no rest.
    """

    def __init__(self, output: Any, failed: Any, others: tuple[Any, Any] | None = None) -> None:
        super().__init__(output, failed, others)
        self.output, self.failed, self.others = output, failed, others


def done_of(given: Input, error: Exception) -> Done[Input, Any]:
    """What came of an input whose function raised an error for the last time."""
    if isinstance(error, PartlyFailed):
        return Done(given, error.output)
    return Done(given, error=error)


class Runner(Protocol):
    """Spreads a work over its workers.

    Attributes:
        in_this_process: Whether the work is done in the process that calls ``run``.
    """

    @property
    def in_this_process(self) -> bool: ...

    def run(self, work: Work[Input, Output], inputs: Iterable[Input]) -> Generator[Done[Input, Output], None, None]:
        """Do the work with every input. What is done is given in any order.

        An input is taken from ``inputs`` only when a worker is free for it, so that a million of them need no memory.
        If the function raises, or a worker dies or hangs, another worker tries once more; then the error is given as a
        value. What failed of an input is tried once more, too, see ``PartlyFailed``. A worker that died is replaced.
        When the iterator is closed, the workers end.

        Raises:
            XPSRError: ``Work.warm`` raised it, in whatever worker: the work cannot be done as it was asked for.
            Exception: ``Work.warm`` raised it in every worker, or every worker died before it was ready.
        """
