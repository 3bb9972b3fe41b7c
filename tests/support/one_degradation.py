"""A plug-in that is a module: what worker processes can be told of by name."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_degradation_models() -> list[ComponentSpec]:
    return [ComponentSpec("one", "xpsr_sdk.builtin.bicubic_degradation:BicubicDegradation", "One.")]
