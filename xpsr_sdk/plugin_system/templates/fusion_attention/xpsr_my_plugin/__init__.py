"""The fusion attention ``my-plugin`` for ``xpsr_sdk``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_fusion_attentions() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            "my-plugin",
            "xpsr_my_plugin.fusion_attention:MyPluginFusion",
            "Mixes both prompts by one weight for each channel.",
        )
    ]
