"""The fixture that gives plug-in authors a registry of their own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from xpsr_sdk import BrokenPlugin, ComponentSpec, hookimpl

pytest_plugins = ["xpsr_sdk.testing.pytest_plugin"]

MINE = SimpleNamespace(xpsr_samplers=hookimpl(lambda: [ComponentSpec("mine", "mine:Mine", "Mine.")]), __name__="mine")


def test_it_holds_the_built_in_parts_and_the_given_ones(xpsr_registry) -> None:  # type: ignore[no-untyped-def]
    registry = xpsr_registry(MINE)
    assert {component.distribution for component in registry.components("sampler")} == {"xpsr-sdk", "mine"}


def test_nothing_is_left_of_it(xpsr_registry) -> None:  # type: ignore[no-untyped-def]
    assert "mine" not in {component.spec.name for component in xpsr_registry().components("sampler")}


def test_a_broken_plugin_fails_the_test(xpsr_registry) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BrokenPlugin, match="implements no hook"):
        xpsr_registry(SimpleNamespace())
