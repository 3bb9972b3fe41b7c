"""Files and folders on the command line, by path or by URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xpsr_sdk.files.remote import URL, RemotePath, place


class Place(click.Path):
    """As ``click.Path``, with URLs of stores that fsspec reaches. ``exists`` is checked for them, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of a file or folder."""
        if str(value) == "":  # which pathlib takes for the current folder
            self.fail("the name is empty: name a file or a folder ('.' is this folder).", param, ctx)
        if not URL.match(str(value)):
            return super().convert(value, param, ctx)
        found = place(str(value))
        if not isinstance(found, RemotePath):
            return super().convert(found, param, ctx)
        if self.exists and not (found.exists() or next(found.files_below(), None)):
            self.fail(f"{str(found)!r} does not exist.", param, ctx)
        return found
