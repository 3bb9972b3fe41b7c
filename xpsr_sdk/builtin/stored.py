"""Prompts that ``xpsr caption`` has stored before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from xpsr_sdk.contracts import Item, Options, PromptLevel, Prompts
from xpsr_sdk.files.remote import place
from xpsr_sdk.prompts.store import STORE_NAME, PromptStore


class StoredPrompts:
    """Looks photos up by the content of their files. If there are several prompts, it gives the newest."""

    class Config(Options):
        """Options of ``StoredPrompts``."""

        file: Path | None = Field(
            None, description=f"The store. None: {STORE_NAME} in the photo's folder, or in the next one above."
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self._store_at = lru_cache(maxsize=16)(PromptStore)

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """The stored prompts. A missing prompt is reported as an error of its level."""
        return [self._describe(item, levels) for item in items]

    def unload(self) -> None:
        """Close the files."""
        self._store_at.cache_clear()

    def _describe(self, item: Item, levels: Collection[PromptLevel]) -> Prompts:
        if item.sha256 is None:
            return Prompts(errors=dict.fromkeys(levels, "The image has no file, so no prompts are stored for it."))
        file = self._file(item)
        if file is None:
            missing = f"There is no {STORE_NAME} in its folder or in one above: xpsr caption makes one."
            return Prompts(errors=dict.fromkeys(levels, missing))
        found = {level: self._store_at(file).newest(item.sha256, level) for level in levels}
        texts: dict[PromptLevel, str] = {level: prompt.text or "" for level, prompt in found.items() if prompt}
        source: dict[PromptLevel, str] = {level: prompt.source for level, prompt in found.items() if prompt}
        errors: dict[PromptLevel, str] = {
            level: f"{file} holds no {level}-level prompt for it: xpsr caption adds one."
            for level, prompt in found.items()
            if prompt is None
        }
        return Prompts(texts.get("high"), texts.get("low"), source, errors)

    def _file(self, item: Item) -> Path | None:
        if self.config.file or item.path is None:
            return place(self.config.file) if self.config.file else None
        folders = item.path.absolute().parents
        return next((folder / STORE_NAME for folder in folders if (folder / STORE_NAME).is_file()), None)
