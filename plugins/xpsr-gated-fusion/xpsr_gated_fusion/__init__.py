"""Three more fusions of the low-level prompt for ``xpsr_sdk``: ``gated``, ``serial`` and ``high-only``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_fusion_attentions() -> list[ComponentSpec]:
    module = f"{__name__}.fusions"
    return [
        ComponentSpec("gated", f"{module}:GatedFusion", "Adds the low-level attention through a gate, shut at first."),
        ComponentSpec("serial", f"{module}:SerialFusion", "The low-level attention after the high-level one."),
        ComponentSpec("high-only", f"{module}:HighOnlyFusion", "Ignores the low-level prompt; no weights."),
    ]
