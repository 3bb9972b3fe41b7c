"""Prompts from text files next to the photos, or from the folders that the published code uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pydantic import Field

from xpsr_sdk.contracts import Item, Options, PromptLevel, Prompts
from xpsr_sdk.errors import one_line
from xpsr_sdk.prompts.describe import clean_description

FOLDERS: dict[PromptLevel, tuple[str, ...]] = {
    "high": ("highlevel_prompt", "highlevel_prompt_GT"),
    "low": ("lowlevel_prompt_q", "lowlevel_prompt"),
}
FOLDERS_OF_HR: dict[PromptLevel, tuple[str, ...]] = {
    "high": ("highlevel_prompt_GT",),
    "low": ("lowlevel_prompt_q_GT",),
}
"""The folders of the published code, in order of preference. The sharp photos, in ``HR/``, have their own folders."""
LONGEST_FILE = 2**20
"""At most so many bytes of a file are read."""


class SidecarPrompts:
    """For ``photos/NAME.jpg``, reads the first of these files that exists:

    - ``photos/NAME.high.txt`` and ``photos/NAME.low.txt``; for the content also ``photos/NAME.txt``;
    - ``NAME.txt`` in a folder of the published code, inside ``photos/`` or next to it: ``highlevel_prompt`` or
      ``highlevel_prompt_GT`` for the content, ``lowlevel_prompt_q`` or ``lowlevel_prompt`` for the quality. For a
      photo in ``HR/``, these are ``highlevel_prompt_GT`` and ``lowlevel_prompt_q_GT``.

    An empty file gives an empty prompt.
    """

    class Config(Options):
        """Options of ``SidecarPrompts``."""

        folder: Path | None = Field(None, description="Folder of the files. None: that of the photo.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """The texts of the files. A missing file is reported as an error of its level."""
        return [self._describe(item, levels) for item in items]

    def unload(self) -> None:
        """Do nothing, since this provider holds no memory."""

    def _describe(self, item: Item, levels: Collection[PromptLevel]) -> Prompts:
        texts: dict[PromptLevel, str] = {}
        errors: dict[PromptLevel, str] = {}
        for level in levels:
            try:
                texts[level] = self._read(item, level)
            except (OSError, ValueError) as error:
                errors[level] = str(error) if isinstance(error, ValueError) else one_line(error)
        return Prompts(texts.get("high"), texts.get("low"), dict.fromkeys(texts, "sidecar"), errors)

    def _read(self, item: Item, level: PromptLevel) -> str:
        if item.path is None:
            raise ValueError("The image has no file, so there can be no text file next to it.")
        candidates = list(self._candidates(item.path, level))
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise ValueError(f"There is no {candidates[0]}, and no other file with its {level}-level prompt.")
        with found.open("rb") as file:
            content = file.read(LONGEST_FILE)
        try:
            return clean_description(content)
        except ValueError as error:
            raise ValueError(f"{found}: {error}") from None

    def _candidates(self, photo: Path, level: PromptLevel) -> Iterator[Path]:
        folder = self.config.folder or photo.parent
        yield folder / f"{photo.stem}.{level}.txt"
        if level == "high":
            yield folder / f"{photo.stem}.txt"
        for name in (FOLDERS_OF_HR if photo.parent.name == "HR" else FOLDERS)[level]:
            yield folder / name / f"{photo.stem}.txt"
            yield folder.parent / name / f"{photo.stem}.txt"
