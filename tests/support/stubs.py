"""Plug-ins for tests of the registry, in memory and as installed distributions."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from xpsr_sdk import ComponentSpec, Options, hookimpl
from xpsr_sdk.plugin_system.discovery import Plugin
from xpsr_sdk.plugin_system.scope import create_part

ONE_SAMPLER = (
    "from xpsr_sdk import ComponentSpec, hookimpl\n\n@hookimpl\ndef xpsr_samplers():\n"
    "    return [ComponentSpec('one', 'xpsr_one:One', 'One.')]\n"
)


class Stub:
    """A sampler that keeps what it was built from."""

    class Config(Options):
        steps: int = Field(3, ge=1, le=9, description="How many.")
        mode: Literal["fast", "good"] = "good"

    def __init__(self, config: Config, *args: object) -> None:
        if config.steps == 9:
            raise ZeroDivisionError("nine is too many")
        if config.steps == 8:
            raise SystemExit("eight ends it")
        self.config, self.args = config, args

    def sample(self, *args: Any, **kwargs: Any) -> None: ...


class Incomplete:
    """No sampler: it can be built, but has no ``sample``."""

    Config = Stub.Config

    def __init__(self, config: Stub.Config) -> None:
        pass


class Moody(Stub):
    """Cannot say whether it has ``sample``."""

    @property
    def sample(self) -> Any:  # type: ignore[override]
        raise OSError("not today")


class Picky(Stub):
    """Its options cannot be validated."""

    class Config(Stub.Config):
        @model_validator(mode="before")
        @classmethod
        def refuse(cls, options: Any) -> Any:
            raise KeyError("luck")


class Needy(Stub):
    """Has an option that must be given."""

    class Config(Stub.Config):
        must: int


class Outer(Stub):
    """Is made of another sampler."""

    def __init__(self, config: Stub.Config) -> None:
        self.inner = create_part("sampler", "inner")


class NoConfig:
    pass


NOT_A_CLASS = 3
HERE = __name__
"""Where the targets of these plug-ins lie."""


def sampler(name: str, target: str = f"{HERE}:Stub", **defaults: Any) -> ComponentSpec:
    return ComponentSpec(name, target, "A stub.", defaults)


def offering(*specs: object, distribution: str = "xpsr-test", version: str = "1.2") -> Plugin:
    """A plug-in that offers samplers."""
    module = types.SimpleNamespace(xpsr_samplers=hookimpl(lambda: iter(specs)))
    return loading(lambda: module, distribution, version)


def loading(load: Any, distribution: str = "xpsr-test", version: str = "1.2") -> Plugin:
    return Plugin(distribution, version, load)


def plugin_with(**functions: Any) -> Plugin:
    return loading(lambda: types.SimpleNamespace(**functions))


def raising(error: BaseException) -> Any:
    def load() -> object:
        raise error

    return load


def distribute(folder: Path, name: str, module: str, requires: str = "", body: str = "", version: str = "0.3") -> None:
    """What pip would leave behind of a distribution with a plug-in."""
    (folder / f"{module}.py").write_text(body)
    info = folder / f"{(name or module).replace('-', '_')}-0.3.dist-info"
    info.mkdir()
    named = f"Name: {name}\nVersion: {version}\n" if name else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{named}{requires}")
    (info / "entry_points.txt").write_text(f"[xpsr_sdk]\n{module} = {module}\n")
