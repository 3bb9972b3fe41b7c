"""Fixtures for a plug-in's tests. pytest finds them automatically when the SDK is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xpsr_sdk.plugin_system.registry import Registry


@pytest.fixture
def xpsr_registry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Makes registries of the built-in components and of the given plug-ins. Installed plug-ins are left out.

    ``xpsr_registry(my_plugin)`` returns a ``Registry`` for a check, ``build_pipeline`` or ``train``. It raises an
    error if the plug-in is broken.
    """
    from xpsr_sdk.plugin_system.registry import Registry

    def make(*plugins: object) -> Registry:
        monkeypatch.setenv("XPSR_STRICT", "1")
        return Registry(plugins)

    return make
