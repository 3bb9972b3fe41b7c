"""The backbone ``my-plugin`` for ``xpsr_sdk``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_backbones() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            "my-plugin",
            "xpsr_my_plugin.backbone:MyPluginBackbone",
            "Stable Diffusion, decoded twice and averaged.",
        )
    ]
