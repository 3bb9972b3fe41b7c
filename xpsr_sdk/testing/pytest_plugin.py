"""Fixtures for a plug-in's tests. pytest finds them by itself once the SDK is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xpsr_sdk.plugin_system.registry import Registry


@pytest.fixture
def xpsr_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """Makes registries that hold the built-in components and those of the given plug-ins, whatever is installed.

    ``xpsr_registry(my_plugin)`` fails if the plug-in is broken, and gives a ``Registry``, which is also what
    ``default_registry()`` gives until the test ends.
    """
    from xpsr_sdk.plugin_system import registry
    from xpsr_sdk.plugin_system.discovery import as_plugin

    def make(*plugins: object) -> Registry:
        monkeypatch.setenv("XPSR_STRICT", "1")
        made = registry.Registry(plugins)
        monkeypatch.setattr(registry, "installed_plugins", lambda: [as_plugin(p) for p in plugins])
        registry.default_registry.cache_clear()
        return made

    yield make
    registry.default_registry.cache_clear()
