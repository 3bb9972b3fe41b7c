"""What a registry lists: components, and plug-ins that failed; and the errors about them."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from xpsr_sdk.contracts import ComponentSpec, kind_in_words
from xpsr_sdk.errors import BrokenPlugin, DuplicateComponent
from xpsr_sdk.plugin_system.discovery import normalized, reason
from xpsr_sdk.plugin_system.marks import Mark

State = Literal["ok", "broken", "duplicate"]
GENERAL_WORDS = {"xpsr", "sdk", "plugin", "plugins"}
"""Words in the names of plug-ins that say nothing about what they offer."""


@dataclass(frozen=True)
class PluginFailure:
    """A plug-in that could not be loaded, or that offers a name that is reserved for a built-in part.

    Attributes:
        distribution: The distribution that the plug-in is part of.
        version: The version of that distribution.
        error: What it raised, with its traceback.
        entry_point: Its entry point, ``name = module``, if it has one.
    """

    distribution: str
    version: str
    error: BaseException
    entry_point: str = ""

    @property
    def reason(self) -> str:
        """The error in one line, with what to install if a module is missing."""
        return reason(self.error, self.distribution)

    @property
    def traceback(self) -> str:
        """The whole traceback of the error."""
        return "".join(traceback.format_exception(self.error))

    def may_offer(self, name: str) -> bool:
        """Whether it is likely to offer a component of that name.

        This is so if the name has a word in common with the names of the distribution, the entry point or the module.
        """
        distribution, _, name = name.rpartition(":")
        if distribution:
            return normalized(distribution) == normalized(self.distribution)
        own = _words_in(f"{self.distribution} {self.entry_point}") - GENERAL_WORDS
        return not own.isdisjoint(_words_in(name))

    def __str__(self) -> str:
        return f"The plug-in {self.distribution} {self.version} is broken: {self.reason}"


@dataclass(frozen=True)
class RegisteredComponent:
    """A component that a plug-in offers.

    Attributes:
        spec: The spec that the plug-in returned.
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        distribution: The distribution that offers it.
        version: The version of that distribution.
        state: ``"ok"``; ``"broken"`` (its plug-in failed, or its ``defaults`` are wrong); or ``"duplicate"`` (another
            one has the same name, so that this one must be chosen as ``distribution:name``).
        error: Why it cannot be used, or cannot be chosen by its name alone. None if its state is ``"ok"``.
    """

    spec: ComponentSpec
    kind: str
    distribution: str
    version: str
    state: State = "ok"
    error: BaseException | None = None

    @property
    def reason(self) -> str:
        """The error in one line, with what to install if a module is missing; empty if there is no error."""
        return reason(self.error, self.distribution) if self.error else ""

    @property
    def full_name(self) -> str:
        """``distribution:name``, which is unique even if several components have the same name."""
        return f"{self.distribution}:{self.spec.name}"

    @property
    def mark(self) -> Mark:
        """What is said of parts that are built of it."""
        return Mark(self.kind, self.spec.name, self.distribution, self.version)

    def __str__(self) -> str:
        return str(self.mark)


@contextmanager
def errors_as_broken_plugin(
    component: RegisteredComponent, action: str, unchanged: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn every error in the block, except the ``unchanged`` types, into a ``BrokenPlugin`` of the component."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except unchanged:
        raise
    except BaseException as error:  # a plug-in that calls sys.exit() must not end the program
        cause = reason(error, component.distribution)
        raise BrokenPlugin(f"The {component} cannot be {action}: {cause}") from error


def unusable(component: RegisteredComponent, cause: BaseException | None) -> BrokenPlugin:
    """The error for a component that was chosen although its plug-in is broken."""
    why = reason(cause, component.distribution)
    error = BrokenPlugin(f"The {component} cannot be used, because its plug-in is broken: {why}")
    error.__cause__ = cause
    return error


def duplicate_error(rivals: Iterable[RegisteredComponent]) -> DuplicateComponent:
    """The error about components of one kind and name."""
    first, *others = rivals
    who = f"The {kind_in_words(first.kind)} {first.spec.name!r}"
    if {c.distribution for c in others} == {first.distribution}:
        targets = " and ".join(c.spec.target for c in (first, *others))
        return DuplicateComponent(
            f"{who} is offered more than once by {first.distribution} {first.version} ({targets}); "
            f"its names must differ: tell its author."
        )
    sources = " and ".join(f"{c.distribution} {c.version} ({c.spec.target})" for c in (first, *others))
    return DuplicateComponent(
        f"{who} is offered by {sources}; choose one as {first.full_name!r}, uninstall one, or list those to load in "
        "XPSR_PLUGINS."
    )


def _words_in(names: str) -> set[str]:
    """The words of a name in small letters, without those of one or two letters."""
    return set(re.findall(r"[a-z0-9]{3,}", names.lower()))
