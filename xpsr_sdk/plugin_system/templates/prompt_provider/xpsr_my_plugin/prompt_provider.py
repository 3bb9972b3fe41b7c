"""Describes a photo by its file's name, and its quality by how much light there is in it."""

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
        """One answer an item. A model that is slow to load is best loaded here, when the first item comes."""
        return [self._describe_one(item, levels) for item in items]

    def _describe_one(self, item: Item, levels: Collection[PromptLevel]) -> Prompts:
        texts: dict[PromptLevel, str] = {}
        errors: dict[PromptLevel, str] = {}
        if "high" in levels and item.path is not None:  # without a file's name the level stays absent
            texts["high"] = item.path.stem.replace("_", " ").replace("-", " ")
        if "low" in levels:
            try:
                texts["low"] = self._word_light(ImageStat.Stat(item.image.convert("L")).mean[0])
            except Exception as error:  # reported, never raised: a description is not worth a failed restoration
                errors["low"] = f"The image cannot be read: {error}"
        source: dict[PromptLevel, str] = dict.fromkeys(texts, "my-plugin")
        return Prompts(texts.get("high"), texts.get("low"), source, errors)

    def _word_light(self, mean: float) -> str:
        if mean < self.config.dark:
            return "underexposed, dark photo."
        return "overexposed, bright photo." if mean > self.config.bright else "well exposed photo."

    def unload(self) -> None:
        """Give back memory, for instance a model's: there is none here."""
