"""A prompt provider that gives every image the same description."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pydantic import Field

from xpsr_sdk.contracts import Item, Options, PromptLevel, Prompts


class FixedPrompts:
    """Gives every image the texts of its Config, for experiments and for folders of similar photos."""

    class Config(Options):
        """The texts. ``None`` leaves a level out; ``""`` is encoded as empty text."""

        high: str | None = Field(default=None, description="What every photo shows.")
        low: str | None = Field(default=None, description="How good or bad every photo's quality is.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """The configured texts of the requested levels, for each item."""
        high = self.config.high if "high" in levels else None
        low = self.config.low if "low" in levels else None
        texts: dict[PromptLevel, str | None] = {"high": high, "low": low}
        source: dict[PromptLevel, str] = {level: "fixed" for level, text in texts.items() if text is not None}
        return [Prompts(high=high, low=low, source=source) for _ in items]

    def unload(self) -> None:
        """Do nothing, since this provider holds no memory."""
