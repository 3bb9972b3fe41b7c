"""Prompts in text files beside the photos, or in the folders of the published form."""

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
"""The published folders, the preferred first; those of the sharp photos, which lie in ``HR/``, are their own."""
LONGEST_FILE = 2**20
"""Bytes of a file that are read."""


class SidecarPrompts:
    """Reads, for ``photos/NAME.jpg``, the first there is of:

    - ``photos/NAME.high.txt`` and ``photos/NAME.low.txt``; for the content also ``photos/NAME.txt``;
    - ``NAME.txt`` in a folder of the published form, in ``photos/`` or beside it: ``highlevel_prompt`` or
      ``highlevel_prompt_GT`` for the content, ``lowlevel_prompt_q`` or ``lowlevel_prompt`` for the quality; for a photo
      in ``HR/``, ``highlevel_prompt_GT`` and ``lowlevel_prompt_q_GT``.

    An empty file is a description: no text.
    """

    class Config(Options):
        """Where the files are."""

        folder: Path | None = Field(None, description="Folder of the files. None: that of the photo.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """The texts of the files; a missing file is reported as an error of its level."""
        return [self._describe(item, levels) for item in items]

    def unload(self) -> None:
        """Nothing is held."""

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
            raise ValueError("The image comes from no file, so that none can lie beside it.")
        candidates = list(self._candidates(item.path, level))
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise ValueError(f"There is no {candidates[0]}, nor any other file of its {level}-level prompt.")
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
