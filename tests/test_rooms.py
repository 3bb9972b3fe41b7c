"""The rooms of the SDK: what each may import, and where its tests are. CONTRIBUTING.md describes the rooms."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import xpsr_sdk

SDK = Path("xpsr_sdk")
ROOMS = sorted(folder.name for folder in SDK.iterdir() if (folder / "__init__.py").is_file())
OTHER_TESTS = {"fixtures", "measurements", "support"}
"""Folders of ``tests`` that mirror no room."""
FORBIDDEN = {
    "data": ("benchmark", "build", "builtin", "cli", "engine", "evaluation", "models", "pipeline", "plugin_system",
             "preparation", "prompts", "serving", "testing", "training"),
}  # fmt: skip
"""What the modules of a room do not import, not even inside a function."""


def imports(file: Path) -> Iterator[str]:
    """The modules of the SDK that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    wrong = [
        f"{file}: {module}"
        for file in sorted((SDK / room).rglob("*.py"))
        for module in imports(file)
        if module.startswith("xpsr_sdk.") and module.split(".")[1] in FORBIDDEN[room]
    ]
    assert wrong == []


def test_every_room_has_a_folder_of_tests() -> None:
    folders = {folder.name for folder in Path("tests").iterdir() if any(folder.glob("*.py"))}
    assert sorted(folders - OTHER_TESTS) == ROOMS


@pytest.mark.parametrize("test", sorted(f for room in ROOMS for f in Path("tests", room).glob("test_*.py")), ids=str)
def test_a_test_uses_the_room_that_it_is_in(test: Path) -> None:
    text = test.read_text(encoding="utf-8")
    modules = {*re.findall(r"xpsr_sdk\.\w+", text), *(home_of(name) for name in imports(test))}
    assert f"xpsr_sdk.{test.parent.name}" in modules, "move it to the room whose behaviour it asserts"


def home_of(name: str) -> str:
    """The room of a public name, ``xpsr_sdk.NAME``."""
    home = xpsr_sdk._HOME_OF.get(name.removeprefix("xpsr_sdk."), name)
    return ".".join(home.split(".")[:2])
