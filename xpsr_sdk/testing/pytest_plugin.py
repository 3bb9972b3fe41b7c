"""Fixtures for a plug-in's tests. pytest finds them by itself once the SDK is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xpsr_sdk.plugin_system.registry import Registry


@pytest.fixture
def xpsr_registry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Makes registries that hold the built-in components and those of the given plug-ins, whatever is installed.

    ``xpsr_registry(my_plugin)`` gives a ``Registry``, to be handed to a check, ``build_pipeline`` or ``train``. It
    fails if the plug-in is broken.
    """
    from xpsr_sdk.plugin_system.registry import Registry

    def make(*plugins: object) -> Registry:
        monkeypatch.setenv("XPSR_STRICT", "1")
        return Registry(plugins)

    return make
