"""The policy for hooks that change: its example does what it says, and so does the registry."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from tests.support.pages import Reader
from xpsr_sdk import ComponentSpec, Registry, hookimpl
from xpsr_sdk.plugin_system import hookspecs

WARNING = FutureWarning("xpsr_samplers is deprecated since 0.3: implement xpsr_solvers.")


def test_the_example_prints_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    Reader(Path("docs/explanations/hook-evolution.md"), monkeypatch, is_tutorial=True).read()


def test_a_deprecated_hook_warns_and_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hookspecs.xpsr_samplers.xpsr_spec, "warn_on_impl", WARNING)  # type: ignore[attr-defined]
    old = types.SimpleNamespace(xpsr_samplers=hookimpl(lambda: [ComponentSpec("old", "old:Old", "A sampler.")]))
    with pytest.warns(FutureWarning, match="implement xpsr_solvers"):
        registry = Registry([old])
    assert registry.failures == []
    assert registry.find("sampler", "old").state == "ok"
