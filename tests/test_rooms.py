"""The rooms of the house: what each may import, so that a part can be read without those above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SDK = Path("xpsr_sdk")
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
