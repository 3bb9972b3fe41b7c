"""The prompt provider ``my-plugin`` for ``xpsr_sdk``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_prompt_providers() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            "my-plugin",
            "xpsr_my_plugin.prompt_provider:MyPluginPrompts",
            "Content from the file's name, quality from the brightness.",
        )
    ]
