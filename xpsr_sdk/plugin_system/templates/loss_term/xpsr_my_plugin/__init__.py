"""The loss term ``my-plugin`` for ``xpsr_sdk``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_loss_terms() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            "my-plugin",
            "xpsr_my_plugin.loss_term:MyPluginLoss",
            "How far the edges of the estimates are from those of the sharp photos.",
        )
    ]
