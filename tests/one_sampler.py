"""A plug-in that is a module: what worker processes can be told of by name."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_samplers() -> list[ComponentSpec]:
    return [ComponentSpec("one", "tests.stubs:Stub", "One.")]
