"""Prompts from OpenCLIP models for ``xpsr_sdk``: ``openclip``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_prompt_providers() -> list[ComponentSpec]:
    summary = "Content and quality from any OpenCLIP model (arXiv 2103.00020, 2207.12396)."
    return [ComponentSpec("openclip", f"{__name__}.provider:OpenCLIPPrompts", summary)]
