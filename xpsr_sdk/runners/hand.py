"""What a worker does, in its own process: builds the warm state of a work once, then does input after input."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from xpsr_sdk.errors import XPSRError, one_line, print_traceback
from xpsr_sdk.runners.work import PartlyFailed, Work


@dataclass(frozen=True)
class Answer:
    """What a worker answers: a value or an error, and the warnings for the user that were given on the way."""

    value: Any = None
    error: Exception | None = None
    warnings: tuple[str, ...] = ()


class Hand:
    """Does a work. Its methods raise no errors of the work: those are in the answers."""

    def __init__(self, work: Work[Any, Any]) -> None:
        self._work = work
        self._state: AbstractContextManager[Callable[[Any], Any]] | None = None
        self._do: Callable[[Any], Any] | None = None

    def get_ready(self) -> Answer:
        """Build the warm state."""
        return _answer(self._warm)

    def do(self, given: Any) -> Answer:
        """Do one input."""
        assert self._do is not None
        do = self._do
        return _answer(lambda: do(given))

    def close(self) -> None:
        """Give the warm state back."""
        if self._state is not None and self._do is not None:
            self._state.__exit__(None, None, None)

    def _warm(self) -> None:
        self._state = self._work.warm()
        self._do = self._state.__enter__()


def _answer(call: Callable[[], Any]) -> Answer:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("default", UserWarning)
        value: Any = None
        error: Exception | None = None
        try:
            value = call()
        except PartlyFailed as raised:
            error = raised
        except Exception as raised:
            print_traceback()
            error = _portable(raised)
    told = [str(warning.message) for warning in given if issubclass(warning.category, UserWarning)]
    return Answer(value, error, tuple(dict.fromkeys(told)))


def _portable(error: Exception) -> Exception:
    """The error, or its words if another process could not rebuild it."""
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:
        return XPSRError(one_line(error))
    return error if type(same) is type(error) else XPSRError(one_line(error))
