"""The options of a part as its source text declares them: listing parts must not import their modules."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path


def options_in_source(target: str) -> set[str] | None:
    """The names of the options of a component's class.

    Args:
        target: ``"package.module:Class"``.

    Returns:
        None where they can't be told without importing the module: of a class or a Config that derives from others.
    """
    module, _, path = target.partition(":")
    try:
        found: ast.AST = ast.parse(_source_of(module).read_text(encoding="utf-8"))
        for name in (*path.split("."), "Config"):
            found = next(each for each in _classes_in(found) if each.name == name)
    except (OSError, ValueError, SyntaxError, StopIteration, ImportError, AttributeError, RecursionError):
        return None
    assert isinstance(found, ast.ClassDef)
    if [ast.unparse(base).rpartition(".")[2] for base in found.bases] != ["Options"]:
        return None  # it has options of another class as well
    fields = (line.target for line in found.body if isinstance(line, ast.AnnAssign))
    return {field.id for field in fields if isinstance(field, ast.Name)}


def _source_of(module: str) -> Path:
    """The file of a module whose package has been imported; other packages are not, since that may take long."""
    package = module.rpartition(".")[0]
    if package and package not in sys.modules:
        raise ImportError(f"{package} is not imported")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise ImportError(f"{module} has no source text")
    return Path(spec.origin)


def _classes_in(tree: ast.AST) -> Iterator[ast.ClassDef]:
    return (node for node in ast.iter_child_nodes(tree) if isinstance(node, ast.ClassDef))
