"""Describes the content of a photo by its file's name, and the quality by its brightness."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PIL import ImageStat
from pydantic import Field

from xpsr_sdk import Item, Options, PromptLevel, Prompts


class MyPluginPrompts:
    """See ``xpsr_sdk.PromptProvider`` for the contract."""

    class Config(Options):
        """The options: checked before the class is built, and shown by ``xpsr plugins show``."""

        dark: float = Field(80, ge=0, le=255, description="A photo is dark below this mean, in levels of 255.")
        bright: float = Field(180, ge=0, le=255, description="A photo is bright above this mean, in levels of 255.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """Describe each item. If you use a model that is slow to load, load it here, at the first call."""
        return [self._describe_one(item, levels) for item in items]

    def _describe_one(self, item: Item, levels: Collection[PromptLevel]) -> Prompts:
        texts: dict[PromptLevel, str] = {}
        errors: dict[PromptLevel, str] = {}
        if "high" in levels and item.path is not None:  # without a file name there is no high-level prompt
            texts["high"] = item.path.stem.replace("_", " ").replace("-", " ")
        if "low" in levels:
            try:
                texts["low"] = self._describe_light(ImageStat.Stat(item.image.convert("L")).mean[0])
            except Exception as error:  # reported, not raised: a missing description must not stop a restoration
                errors["low"] = f"The image cannot be read: {error}"
        source: dict[PromptLevel, str] = dict.fromkeys(texts, "my-plugin")
        return Prompts(texts.get("high"), texts.get("low"), source, errors)

    def _describe_light(self, mean: float) -> str:
        if mean < self.config.dark:
            return "underexposed, dark photo."
        return "overexposed, bright photo." if mean > self.config.bright else "well exposed photo."

    def unload(self) -> None:
        """Free memory, for instance that of a model. This provider holds none."""
