"""Registries for parts that tests define."""

from __future__ import annotations

import types

from xpsr_sdk import ComponentSpec, Registry, hookimpl
from xpsr_sdk.contracts import KINDS


def registry_with(kind: str, part: type, name: str = "part", summary: str = "A part.") -> Registry:
    """The built-in components and a class of a test module, called ``name``."""
    spec = ComponentSpec(name, f"{part.__module__}:{part.__qualname__}", summary)
    return Registry([types.SimpleNamespace(**{KINDS[kind]: hookimpl(lambda: [spec])}, __name__="xpsr-test")])
