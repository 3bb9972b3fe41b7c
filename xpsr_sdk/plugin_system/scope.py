"""Where parts get the other parts that they need: from the registry in force.

A registry is in force while it builds a part, and while ``build_pipeline``, ``train`` and ``Pipeline.from_pretrained``
build the models. It is a context variable and not an argument, because diffusers builds models from their
``config.json`` alone, and a part is built from its options alone: neither can hold a registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from xpsr_sdk.contracts import kind_in_words
from xpsr_sdk.errors import PluginError

_create: ContextVar[Callable[..., Any]] = ContextVar("xpsr_create_part")


@contextmanager
def parts_come_from(create: Callable[..., Any]) -> Iterator[None]:
    """Within the block, ``create_part`` calls ``create``, which is the method ``create`` of a registry."""
    before = _create.set(create)
    try:
        yield
    finally:
        _create.reset(before)


def create_part(kind: str, choice: object, *args: Any) -> Any:
    """Build a part with the registry in force. A part that needs another part calls this in its constructor.

    Args:
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        choice: A name, or a mapping with ``"name"`` and options.
        args: Passed to the class after its config.

    Raises:
        ConfigError, PluginError: As ``Registry.create``. ``PluginError`` also if no registry is in force.
    """
    try:
        create = _create.get()
    except LookupError:
        raise PluginError(
            f"No registry is in force where the {kind_in_words(kind)} {choice!r} is looked up. Build this with "
            "build_pipeline, train or Registry.create, or within 'with registry.in_force():'."
        ) from None
    return create(kind, choice, *args)
