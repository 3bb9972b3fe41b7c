"""A plug-in for tests of the page: a sampler that can be held, and a prompt provider that counts its answers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pydantic import Field

from xpsr_sdk import ComponentSpec, Options, hookimpl
from xpsr_sdk.contracts import Item, PromptLevel, Prompts

GO = threading.Event()
"""While it is not set, the sampler asks the model again and again."""
GO.set()
ASKED: list[Collection[PromptLevel]] = []
"""What the prompt provider was asked for."""
CAPTION = "a <script>window.hacked = 1</script> boat"


class HeldSampler:
    """Waits for ``GO``."""

    class Config(Options):
        strength: float = Field(0.5, ge=0, le=1, description="How strong it is.")
        secret: str = Field("", description="A text, which visitors must not set.")

    def __init__(self, config: Config) -> None:
        self.config = config

    def sample(self, denoiser: Any, latents: Any, **options: Any) -> Any:
        while True:
            denoiser.predict(latents, 0)
            if GO.wait(0.02):
                return latents


class CountingProvider:
    """Says the same of every photo."""

    class Config(Options):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        if levels:
            ASKED.append(levels)
        return [Prompts(CAPTION if "high" in levels else None, "blurry" if "low" in levels else None) for _ in items]

    def unload(self) -> None:
        pass


@hookimpl
def xpsr_samplers() -> Iterable[ComponentSpec]:
    return [ComponentSpec("held", f"{__name__}:HeldSampler", "Waits until it may go on.")]


@hookimpl
def xpsr_prompt_providers() -> Iterable[ComponentSpec]:
    return [ComponentSpec("counting", f"{__name__}:CountingProvider", "Counts.")]
