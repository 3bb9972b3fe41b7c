"""Plug-ins, templates, tutorials and examples show what others may do: they import public names alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import xpsr_sdk
from tests.support.pages import DOCS, blocks
from xpsr_sdk import testing, toolkit

PUBLIC = {module.__name__: module for module in (xpsr_sdk, testing, toolkit)}
PROGRAMS = [
    *Path("plugins").rglob("*.py"),
    *Path("examples").rglob("*.py"),
    *Path("xpsr_sdk/plugin_system/templates").rglob("*.py"),
]
PAGES = [*DOCS, Path("README.md"), *Path("plugins").glob("*/README.md"), *Path("examples").rglob("README.md")]
HOOKS = Path("xpsr_sdk/plugin_system/hookspecs.py")  # with an example in every docstring


def sources() -> Iterator[tuple[str, str]]:
    """Every program that authors read, with its place."""
    for file in sorted(PROGRAMS):
        yield str(file), file.read_text(encoding="utf-8")
    for page in [*sorted(PAGES), HOOKS]:
        for number, block in enumerate(blocks(page)):
            if block.language == "python":
                yield f"{page}, block {number}", block.text


def private_imports(text: str) -> list[str]:
    """What a program imports of the SDK that is not public."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if _is_ours(alias.name) and alias.name not in PUBLIC]
        elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            of_module = getattr(PUBLIC.get(node.module), "__all__", [])
            found += [name for name in names if name.rpartition(".")[2] not in of_module and name not in PUBLIC]
    return found


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "xpsr_sdk"


@pytest.mark.parametrize(("place", "text"), [pytest.param(*source, id=source[0]) for source in sources()])
def test_authors_need_public_names_alone(place: str, text: str) -> None:
    assert private_imports(text) == [], f"{place}: export it from xpsr_sdk or xpsr_sdk.toolkit, or do without"


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("from xpsr_sdk import Item, testing\nimport xpsr_sdk.toolkit", []),
        ("def f():\n    from xpsr_sdk.config import Settings", ["xpsr_sdk.config.Settings"]),
        ("from xpsr_sdk.toolkit import torch", ["xpsr_sdk.toolkit.torch"]),
        ("import xpsr_sdk.engine.plan as plan", ["xpsr_sdk.engine.plan"]),
    ],
)
def test_a_private_import_is_noticed(text: str, private: list[str]) -> None:
    assert private_imports(text) == private


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_can_be_had(name: str) -> None:
    module = PUBLIC[name]
    assert dir(module) == sorted(module.__all__)
    assert {*module.__all__} - {"__version__"} == {*module.HOME_OF}
    for public in module.__all__:
        assert getattr(module, public) is not None


@pytest.mark.parametrize("name", PUBLIC)
def test_a_misspelt_public_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'no_such_name'"):
        _ = PUBLIC[name].no_such_name
