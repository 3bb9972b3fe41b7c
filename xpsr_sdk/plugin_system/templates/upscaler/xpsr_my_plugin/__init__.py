"""The upscaler ``my-plugin`` for ``xpsr_sdk``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_upscalers() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            "my-plugin",
            "xpsr_my_plugin.upscaler:MyPluginUpscaler",
            "Bicubic, with sharper edges.",
        )
    ]
