"""The sampler ``my-plugin`` for ``xpsr_sdk``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_samplers() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            "my-plugin",
            "xpsr_my_plugin.sampler:MyPluginSampler",
            "Euler's method at Karras' noise levels.",
        )
    ]
