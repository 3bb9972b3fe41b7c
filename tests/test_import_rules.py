"""What each room of the package may import: the table is the rule, and every import in the source is checked by it.

A room is a folder or a single file of ``xpsr_sdk/``; ``xpsr_sdk`` itself stands for the public names. Rooms stand below
those that they import, so that the table reads from the ground up. Imports inside of functions and those for type
checkers count like all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path("xpsr_sdk")
MAY_IMPORT = {
    "errors": "",
    "contracts": "",
    "hardware": "errors",
    "plugin_system": "errors contracts xpsr_sdk",
    "config": "errors plugin_system",
    "resolved": "errors config",
    "data": "errors contracts config",
    "prompts": "errors contracts config resolved data plugin_system",
    "models": "errors contracts plugin_system",
    "evaluation": "errors data hardware xpsr_sdk",
    "engine": "errors contracts config resolved data models hardware",
    "builtin": "errors contracts config prompts models plugin_system hardware",
    "preparation": "errors contracts config data prompts plugin_system builtin",
    "result": "contracts config resolved data",
    "pipeline": "errors contracts config resolved data prompts models engine plugin_system result",
    "build": "errors contracts config models engine hardware plugin_system pipeline training",
    "serving": "errors resolved data pipeline result",
    "benchmark": "config data models engine evaluation builtin plugin_system pipeline result",
    "training": "errors contracts config data prompts models engine evaluation hardware plugin_system pipeline build",
    "testing": "errors contracts data models plugin_system pipeline build training xpsr_sdk",
    "xpsr_sdk": "errors contracts config plugin_system result pipeline build serving",
    "cli": "errors contracts config data prompts preparation evaluation hardware "
    "plugin_system training benchmark xpsr_sdk",
    "__main__": "cli",
}
RULES = {room: set(allowed.split()) for room, allowed in MAY_IMPORT.items()}


def rooms() -> dict[str, list[Path]]:
    """The source files of each room. What lies in templates/ belongs to the plug-ins that are made of it."""
    found: dict[str, list[Path]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if "templates" not in file.parts:
            room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
            found.setdefault("xpsr_sdk" if room == "__init__" else room, []).append(file)
    return found


def imported_rooms(file: Path) -> Iterator[tuple[str, int]]:
    """The rooms that a file imports from, each with the number of the line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are written in full"
            # From the package itself come rooms as well as public names.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "xpsr_sdk":
                yield (rest[0] if rest and rest[0] in RULES else "xpsr_sdk"), node.lineno


def test_the_table_has_all_rooms() -> None:
    assert RULES.keys() == rooms().keys()
    assert set().union(*RULES.values()) <= RULES.keys()


@pytest.mark.parametrize("room", RULES)
def test_a_room_imports_what_the_table_says(room: str) -> None:
    for file in rooms().get(room, []):
        for imported, line in imported_rooms(file):
            assert imported == room or imported in RULES[room], f"{file}:{line}: {room} may not import {imported}"


def test_the_command_line_is_above_everything() -> None:
    assert [room for room, allowed in RULES.items() if "cli" in allowed] == ["__main__"]
