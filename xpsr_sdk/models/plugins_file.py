"""``plugins.json`` in a model's folder: the distributions, each with its version, whose parts the model is made of.

Where a part of the model is unknown, it says what to install.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from torch import nn

from xpsr_sdk.errors import CheckpointError, UnknownComponent
from xpsr_sdk.files.reading import read_json
from xpsr_sdk.plugin_system.discovery import SDK
from xpsr_sdk.plugin_system.marks import mark_of

PLUGINS = "plugins.json"
_WORD = re.compile(r"[A-Za-z0-9]([\w.+!-]*[A-Za-z0-9])?")
"""Names and versions of distributions: what is shown of a file that anybody may have written."""


def write_plugins(folder: Path, parts: Iterable[object]) -> None:
    """Write the file, if any of the parts, or any module within them, comes from a plug-in."""
    each = (m for part in parts for m in (part.modules() if isinstance(part, nn.Module) else [part]))
    marks = [mark for part in each if (mark := mark_of(part)) and mark.distribution != SDK]
    needed = {mark.distribution: mark.version for mark in marks}
    if needed:
        (folder / PLUGINS).write_text(json.dumps(needed, indent=2) + "\n", encoding="utf-8")


@contextmanager
def says_what_to_install(*folders: Path | None) -> Iterator[None]:
    """Within the block, an unknown part is an error that names the plug-ins which these models' folders need."""
    try:
        yield
    except UnknownComponent as error:
        needed = {name: version for folder in folders if folder for name, version in _read(folder / PLUGINS).items()}
        missing = {name: version for name, version in needed.items() if not _is_installed(name)} or needed
        if not missing:
            raise
        made_with = ", ".join(f"{name} {version}" for name, version in missing.items())
        raise UnknownComponent(
            f"{error} The model was made with {made_with}: pip install {' '.join(missing)}"
        ) from error


def _read(file: Path) -> dict[str, str]:
    try:
        content = read_json(file, CheckpointError)
    except CheckpointError:
        return {}
    return {k: v for k, v in content.items() if isinstance(v, str) and _WORD.fullmatch(k) and _WORD.fullmatch(v)}


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
