"""The rooms of the SDK: what each may import, and where its tests are. CONTRIBUTING.md has the rules."""

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
ROW = re.compile(r"^\| `(\w+)` \| .* \| (.*) \|$", re.MULTILINE)
RULES = {
    room: set(re.findall(r"`(\w+)`", allowed))
    for room, allowed in ROW.findall(Path("CONTRIBUTING.md").read_text(encoding="utf-8"))
}
"""What each room may import, by the table in CONTRIBUTING.md."""
GROUND = ("errors", "files", "contracts", "config", "resolved", "library_internals")
"""Rooms that those below them in the table may import, too."""


def imports(file: Path) -> Iterator[str]:
    """What a file imports, anywhere in it: ``package.module.name``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def files_of(room: str) -> list[Path]:
    """The modules of a room, which may be a single one."""
    files = sorted((SDK / room).rglob("*.py")) or [SDK / f"{room}.py"]
    return [file for file in files if "templates" not in file.parts]


def imported_rooms(room: str) -> set[str]:
    """The rooms that the files of a room import from."""
    found = {home_of(module) for file in files_of(room) for module in imports(file) if module.startswith("xpsr_sdk.")}
    return {module.split(".")[1] for module in found}


@pytest.mark.parametrize("room", sorted(RULES.keys() - {"cli"}))
def test_a_room_may_import_nothing_that_it_does_not_need(room: str) -> None:
    assert RULES[room] - imported_rooms(room) == set()


def test_every_room_is_described() -> None:
    modules = {file.stem for file in SDK.glob("*.py")} - {"__init__", "__main__"}
    assert {*ROOMS, *modules} == RULES.keys()
    assert tuple(RULES)[: len(GROUND)] == GROUND


@pytest.mark.parametrize("room", sorted(RULES.keys() - {"cli"}))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    ground = GROUND[: GROUND.index(room)] if room in GROUND else GROUND
    forbidden = RULES.keys() - RULES[room] - {room, *ground}
    wrong = [
        f"{file}: {module}"
        for file in files_of(room)
        for module in imports(file)
        if module.startswith("xpsr_sdk.") and home_of(module).split(".")[1] in forbidden
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
    home = xpsr_sdk.HOME_OF.get(name.removeprefix("xpsr_sdk."), name)
    return ".".join(home.split(".")[:2])
