"""What a built part is called in messages, and which distribution brings it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from xpsr_sdk.contracts import kind_in_words

_MARK = "_xpsr_mark"


@dataclass(frozen=True)
class Mark:
    """Where a part comes from.

    Attributes:
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        name: What it was chosen by.
        distribution: The distribution that offers it.
        version: The version of that distribution.
    """

    kind: str
    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{kind_in_words(self.kind)} {self.name!r} of {self.distribution} {self.version}"


def set_mark(part: object, mark: Mark) -> None:
    """Let a part that a registry has built say where it comes from."""
    with contextlib.suppress(AttributeError, TypeError):  # of a class with slots: it is called by its class
        object.__setattr__(part, _MARK, mark)  # past what a frozen dataclass or a module makes of it


def mark_of(part: object) -> Mark | None:
    """Where a part comes from; None: a registry has not built it."""
    mark = getattr(part, "__dict__", {}).get(_MARK)  # not getattr: a part may answer to any name
    return mark if isinstance(mark, Mark) else None


def name_of(kind: str, part: object) -> str:
    """What a part is called, also one that was handed over as an object.

    Args:
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        part: The part.
    """
    if mark := mark_of(part):
        return str(mark)
    own = type(part)
    return f"{kind_in_words(kind)} {own.__module__}.{own.__qualname__}, which was handed over,"
