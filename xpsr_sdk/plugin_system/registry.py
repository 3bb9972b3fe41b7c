"""Loads plug-ins, makes sure that a broken one does not harm the others, and finds components by name."""

from __future__ import annotations

import inspect
import logging
import os
import pickle
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from numbers import Integral
from typing import Any, Literal

from pydantic import ValidationError

import xpsr_sdk
from xpsr_sdk.contracts import CONTRACTS, KINDS, ComponentSpec, Options
from xpsr_sdk.errors import (
    BrokenPlugin,
    ConfigError,
    DuplicateComponent,
    PluginError,
    UnknownComponent,
    XPSRError,
    config_error,
    did_you_mean,
    short,
    wrong_option,
)
from xpsr_sdk.plugin_system.discovery import SDK, Plugin, as_plugin, installed_plugins, normalized, reason
from xpsr_sdk.plugin_system.marks import Mark, set_mark
from xpsr_sdk.plugin_system.offers import offers
from xpsr_sdk.plugin_system.scope import parts_come_from
from xpsr_sdk.plugin_system.source_options import options_in_source

State = Literal["ok", "broken", "duplicate"]

GENERAL_WORDS = {"xpsr", "sdk", "plugin", "plugins"}
"""Words in the names of plug-ins that say nothing about what they offer."""
_log = logging.getLogger(__name__)
_loading = ContextVar("loading", default=False)
"""Whether a plug-in is being loaded."""


@dataclass(frozen=True)
class PluginFailure:
    """A plug-in that could not be loaded, or that offers a name that is reserved for a built-in part.

    Attributes:
        distribution: The distribution that the plug-in is part of.
        version: The version of that distribution.
        error: What it raised, with its traceback.
        entry_point: Its entry point, ``name = module``, if it has one.
    """

    distribution: str
    version: str
    error: BaseException
    entry_point: str = ""

    @property
    def reason(self) -> str:
        """The error in one line, with what to install if a module is missing."""
        return reason(self.error, self.distribution)

    @property
    def traceback(self) -> str:
        """The whole traceback of the error."""
        return "".join(traceback.format_exception(self.error))

    def may_offer(self, name: str) -> bool:
        """Whether it is likely to offer a component of that name.

        This is so if the name has a word in common with the names of the distribution, the entry point or the module.
        """
        distribution, _, name = name.rpartition(":")
        if distribution:
            return normalized(distribution) == normalized(self.distribution)
        own = _words_in(f"{self.distribution} {self.entry_point}") - GENERAL_WORDS
        return not own.isdisjoint(_words_in(name))

    def __str__(self) -> str:
        return f"The plug-in {self.distribution} {self.version} is broken: {self.reason}"


@dataclass(frozen=True)
class RegisteredComponent:
    """A component that a plug-in offers.

    Attributes:
        spec: The spec that the plug-in returned.
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        distribution: The distribution that offers it.
        version: The version of that distribution.
        state: ``"ok"``; ``"broken"`` (its plug-in failed, or its ``defaults`` are wrong); or ``"duplicate"`` (another
            one has the same name, so that this one must be chosen as ``distribution:name``).
        error: Why it cannot be used, or cannot be chosen by its name alone. None if its state is ``"ok"``.
    """

    spec: ComponentSpec
    kind: str
    distribution: str
    version: str
    state: State = "ok"
    error: BaseException | None = None

    @property
    def reason(self) -> str:
        """The error in one line, with what to install if a module is missing; empty if there is no error."""
        return reason(self.error, self.distribution) if self.error else ""

    @property
    def full_name(self) -> str:
        """``distribution:name``, which is unique even if several components have the same name."""
        return f"{self.distribution}:{self.spec.name}"

    def __str__(self) -> str:
        return f"{_words(self.kind)} {self.spec.name!r} of {self.distribution} {self.version}"


class Registry:
    """The components that can be chosen: the built-in ones and those of plug-ins.

    A plug-in is used as a whole or not at all. It is broken if it fails to import, was made for another version of the
    SDK, raises in a hook, misspells a hook, or returns anything but specs. A broken plug-in is recorded in
    ``failures`` and logged as one warning; the other plug-ins work as usual. The names of built-in components are
    reserved: a plug-in that offers one is recorded in ``failures`` as well. Such a component must be chosen as
    ``distribution:name``; the plug-in's other components are chosen as usual.

    A registry can be sent to a worker process, which then makes its own registry of the same plug-ins by importing
    them by name. So each plug-in must be installed, or be a module that can be imported.

    Args:
        plugins: The plug-ins in addition to the built-in ones: modules or other objects with hook implementations, or
            ``Plugin``. By default those that are installed, see ``installed_plugins``.

    Raises:
        BrokenPlugin: A plug-in failed and the environment variable ``XPSR_STRICT`` is ``1``.
        DuplicateComponent: Two components have the same name and ``XPSR_STRICT`` is ``1``.
        PluginError: A plug-in asks for the installed plug-ins, which include itself, while it is being loaded.
    """

    failures: list[PluginFailure]
    """The plug-ins that failed."""

    def __init__(self, plugins: Iterable[object] | None = None) -> None:
        if plugins is None and _loading.get():
            raise PluginError(
                "The installed plug-ins cannot be listed while one of them is loaded; "
                "call default_registry() when a part is built, not when its plug-in is imported."
            )
        self.failures = []
        self._components: list[RegisteredComponent] = []
        self._plugins = installed_plugins() if plugins is None else [as_plugin(plugin) for plugin in plugins]
        self._add(Plugin(SDK, xpsr_sdk.__version__, lambda: import_module("xpsr_sdk.builtin")))
        for plugin in self._plugins:
            self._add(plugin)
        self._mark_reserved_names()
        self._mark_duplicates()
        if os.environ.get("XPSR_STRICT") == "1":
            self._raise_recorded_errors()

    def __reduce__(self) -> tuple[Any, ...]:
        for plugin in self._plugins:
            try:
                pickle.dumps(plugin)
            except Exception as error:
                raise PluginError(
                    f"A worker process cannot import the plug-in {plugin.distribution}, which is an object in memory: "
                    "pass its module to Registry, install it, or work without worker processes."
                ) from error
        return Registry, (self._plugins,)

    def in_force(self) -> AbstractContextManager[None]:
        """Within the block, models and parts that are built get the parts that they need from this registry.

        Use it where you build models yourself, for instance with ``XPSRControlNet.from_pretrained``.
        ``build_pipeline``, ``train`` and ``Pipeline.from_pretrained`` do this for the registry that they are given.
        """
        return parts_come_from(self.create)

    def components(self, kind: str) -> list[RegisteredComponent]:
        """All components of a kind, sorted by name. Those that cannot be used are included.

        Raises:
            ConfigError: There is no such kind.
        """
        if kind not in KINDS:
            raise ConfigError(f"There is no kind of component {kind!r}. {did_you_mean(kind, KINDS)}")
        found = [component for component in self._components if component.kind == kind]
        return sorted(found, key=lambda component: (component.spec.name, component.distribution))

    def find(self, kind: str, name: str) -> RegisteredComponent:
        """The one usable component of that kind and name.

        Args:
            kind: A key of ``xpsr_sdk.contracts.KINDS``.
            name: A name, or ``distribution:name`` if several components have the same name.

        Raises:
            UnknownComponent: No plug-in offers such a component.
            DuplicateComponent: Several plug-ins offer it.
            BrokenPlugin: The plug-in that offers it failed. Or no plug-in offers it, but a plug-in failed that is
                likely to offer it (see ``PluginFailure.may_offer``).
        """
        distribution, _, own_name = name.rpartition(":")
        found = [component for component in self.components(kind) if component.spec.name == own_name]
        if distribution:
            found = [c for c in found if normalized(c.distribution) == normalized(distribution)]
        usable = [c for c in found if c.state == "ok"] or [c for c in found if c.state == "duplicate"]
        if len(usable) == 1:
            return usable[0]
        if usable:
            raise _duplicate(usable)
        if found:
            raise _unusable(found[0], found[0].error)
        raise self._unknown(kind, name)

    def resolve(self, kind: str, name: str) -> type[Any]:
        """Import the class of a component.

        Raises:
            PluginError: As ``find``.
            BrokenPlugin: The class cannot be imported, or has no ``Config`` derived from ``Options``, or does not
                accept the ``defaults`` of the component.
        """
        component = self.find(kind, name)
        with _errors_as_broken_plugin(component, "imported"):
            found = _import_class(component.spec.target)
        if problem := _wrong_defaults(component.spec, found):
            raise _unusable(component, problem)
        return found

    def config(self, kind: str, choice: str | Mapping[str, Any]) -> Options:
        """The validated options of a component.

        A given option overrides the ``defaults`` of the spec, and those override the defaults of the class.

        Args:
            kind: A key of ``xpsr_sdk.contracts.KINDS``.
            choice: A name, or a mapping with ``"name"`` and options.

        Raises:
            ConfigError: An option is unknown or out of range.
            PluginError: As ``resolve``.
        """
        name, options = _name_and_options(kind, choice)
        component = self.find(kind, name)
        schema: type[Options] = self.resolve(kind, name).Config
        with _errors_as_broken_plugin(component, "given options", (XPSRError,)):
            try:
                return schema.model_validate(_merged(component.spec.defaults, options))
            except ValidationError as error:
                raise config_error(f"The {component}", error, schema) from error

    def create(self, kind: str, choice: object, *args: Any, default: str | None = None) -> Any:
        """Build the component that was chosen.

        Args:
            kind: A key of ``xpsr_sdk.contracts.KINDS``.
            choice: A name, a mapping with ``"name"`` and options, an object that satisfies the contract (it
                is returned as it is), or ``None`` for the default.
            args: Passed to the class after its config.
            default: The name to use if ``choice`` is ``None``.

        Raises:
            ConfigError: An option is unknown or out of range, or the given object lacks a member of the contract.
            PluginError: As ``resolve``. If the class cannot be built, or lacks a member of the contract, the error is
                a ``BrokenPlugin``.
        """
        choice = default if choice is None else choice
        if choice is None:
            raise ConfigError(f"No {_words(kind)} is chosen. {self._hint(kind)}")
        if not isinstance(choice, str | Mapping):
            who = f"The {_words(kind)} that was passed, {short(choice)},"
            _check_contract(kind, choice, who, ConfigError)
            _check_numbers(kind, choice, who)
            return choice
        config = self.config(kind, choice)
        name, _ = _name_and_options(kind, choice)
        component = self.find(kind, name)
        with _errors_as_broken_plugin(component, "built", (XPSRError,)), self.in_force():
            built = self.resolve(kind, name)(config, *args)
            _check_contract(kind, built, f"The {component}", BrokenPlugin)
        set_mark(built, Mark(kind, component.spec.name, component.distribution, component.version))
        return built

    def _unknown(self, kind: str, name: str) -> PluginError:
        """The error that says why there is no such component: the name is wrong, or its plug-in is probably broken."""
        hint = self._hint(kind, name)
        broken = [failure for failure in self.failures if not isinstance(failure.error, DuplicateComponent)]
        likely = [failure for failure in broken if failure.may_offer(name)]
        if likely:
            reasons = " ".join(map(str, likely))
            error = BrokenPlugin(f"No working plug-in offers the {_words(kind)} {name!r}. {reasons} {hint}")
            error.__cause__ = likely[0].error
            return error
        notes = "".join(f" Note: {failure}" for failure in broken)
        return UnknownComponent(f"No plug-in offers the {_words(kind)} {name!r}. {hint}{notes}")

    def _hint(self, kind: str, name: str = "") -> str:
        """A sentence with the usable names that come close to ``name``."""
        usable = [component for component in self.components(kind) if component.state != "broken"]
        return did_you_mean(name, {c.full_name if ":" in name else c.spec.name for c in usable})

    def _add(self, plugin: Plugin) -> None:
        offered: list[tuple[str, ComponentSpec]] = []
        error: BaseException | None = None
        before = _loading.set(True)
        try:
            for offer in offers(plugin.load()):
                offered.append(offer)  # what was offered before a failure is listed as broken
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # a plug-in that calls sys.exit() must not end the program
            error = raised
            failure = PluginFailure(plugin.distribution, plugin.version, raised, plugin.entry_point)
            self.failures.append(failure)
            _log.warning("%s", failure)
        finally:
            _loading.reset(before)
        for kind, spec in offered:
            problem = error or _wrong_defaults(spec, _imported_class(spec.target)) or _misspelt_defaults(spec)
            state: State = "broken" if problem else "ok"
            self._components.append(
                RegisteredComponent(spec, kind, plugin.distribution, plugin.version, state, problem)
            )

    def _raise_recorded_errors(self) -> None:
        broken = [failure for failure in self.failures if not isinstance(failure.error, DuplicateComponent)]
        if broken:
            raise BrokenPlugin(" ".join(map(str, broken))) from broken[0].error
        for component in self._components:
            if component.error:
                raise _unusable(component, component.error) if component.state == "broken" else component.error

    def _mark_reserved_names(self) -> None:
        """Mark the components of plug-ins that have the name of a built-in one, and record those plug-ins."""
        reserved = {(c.kind, c.spec.name) for c in self._components if c.distribution == SDK}
        for index, component in enumerate(self._components):
            taken = (component.kind, component.spec.name) in reserved and component.distribution != SDK
            if taken and component.state == "ok":
                error = DuplicateComponent(
                    f"The {component} has a name that is reserved for a built-in part; choose it as "
                    f"{component.full_name!r}, and tell its author."
                )
                self._components[index] = replace(component, state="duplicate", error=error)
                self.failures.append(PluginFailure(component.distribution, component.version, error))

    def _mark_duplicates(self) -> None:
        counts = Counter((c.kind, c.spec.name) for c in self._components if c.state == "ok")
        for index, component in enumerate(self._components):
            key = (component.kind, component.spec.name)
            if component.state == "ok" and counts[key] > 1:
                rivals = [c for c in self._components if (c.kind, c.spec.name) == key and c.state != "broken"]
                self._components[index] = replace(component, state="duplicate", error=_duplicate(rivals))


@cache
def default_registry() -> Registry:
    """The registry of the built-in and the installed plug-ins. It is made at the first call."""
    return Registry()


@contextmanager
def _errors_as_broken_plugin(
    component: RegisteredComponent, action: str, unchanged: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn every error in the block, except the ``unchanged`` types, into a ``BrokenPlugin`` of the component."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except unchanged:
        raise
    except BaseException as error:  # a plug-in that calls sys.exit() must not end the program
        cause = reason(error, component.distribution)
        raise BrokenPlugin(f"The {component} cannot be {action}: {cause}") from error


def _unusable(component: RegisteredComponent, cause: BaseException | None) -> BrokenPlugin:
    """The error for a component that was chosen although its plug-in is broken."""
    why = reason(cause, component.distribution)
    error = BrokenPlugin(f"The {component} cannot be used, because its plug-in is broken: {why}")
    error.__cause__ = cause
    return error


def _wrong_defaults(spec: ComponentSpec, part: type[Any] | None) -> ConfigError | None:
    """What is wrong with the ``defaults`` of a spec; None if nothing is, or if ``part``, its class, is not known."""
    schema = getattr(part, "Config", None)
    if not spec.defaults or not (isinstance(schema, type) and issubclass(schema, Options)):
        return None
    try:
        schema.model_validate(dict(spec.defaults))
    except ValidationError as error:
        # An option that is missing may still be given by the user who chooses the component.
        wrong = [e for e in error.errors(include_url=False) if e["loc"] and e["type"] != "missing"]
        lines = [wrong_option(detail, schema) for detail in wrong if detail["loc"][0] in spec.defaults]
        return ConfigError("\n".join(["The defaults of its ComponentSpec are wrong:", *lines])) if lines else None
    except Exception:  # the class's own validator failed: reported when the component is given its options
        return None
    return None


def _misspelt_defaults(spec: ComponentSpec) -> ConfigError | None:
    """The ``defaults`` of a spec that are no options, as far as the source text of its class tells."""
    known = options_in_source(spec.target) if spec.defaults else None
    unknown = [] if known is None else [name for name in spec.defaults if name not in known]
    lines = [f"  {name}: there is no such option. {did_you_mean(name, known or ())}" for name in unknown]
    return ConfigError("\n".join(["The defaults of its ComponentSpec are wrong:", *lines])) if lines else None


def _imported_class(target: str) -> type[Any] | None:
    """The class of a target, if its module is imported already. None otherwise: importing it might load torch."""
    module, _, path = target.partition(":")
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, "__dict__", {}).get(name)  # getattr might make a lazy module import others
    return found if isinstance(found, type) else None


def _import_class(target: str) -> type[Any]:
    module, _, path = target.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    if not isinstance(found, type):
        raise TypeError(f"{target} is {short(found)}; it must be a class")
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and issubclass(config, Options)):
        raise TypeError(f"{target} has no class Config derived from xpsr_sdk.Options")
    return found


def _name_and_options(kind: str, choice: object) -> tuple[str, dict[str, Any]]:
    options = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f'The {_words(kind)} {short(choice)} has no name; write "name" or {{"name": "...", ...}}.')
    return name, options


def _merged(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options over a preset's defaults. In a nested group, only the options that are given change."""
    merged = {**defaults, **options}
    for name in defaults.keys() & options.keys():
        if isinstance(defaults[name], Mapping) and isinstance(options[name], Mapping):
            merged[name] = {**defaults[name], **options[name]}
    return merged


_NUMBERS = {"degradation_model": {"scale": 1}, "upscaler": {"scale": 1, "halo": 0}, "metric": {"min_side": 1}}
"""Of the parts of each kind, the attributes that are whole numbers, and the least."""


def _check_numbers(kind: str, component: object, who: str) -> None:
    """Raise ``ConfigError`` if an attribute in ``_NUMBERS`` is none. The conformance kit checks parts of plug-ins."""
    for name, least in _NUMBERS.get(kind, {}).items():
        value = getattr(component, name)
        if not isinstance(value, Integral) or value < least:
            raise ConfigError(f"{who} has {name} {short(value)}: it must be a whole number of at least {least}.")


def _check_contract(kind: str, component: object, who: str, error: type[XPSRError]) -> None:
    """Raise ``error``, about ``who``, unless ``component`` has all members of the contract of its kind."""
    contract = CONTRACTS[kind]
    members = {name for name, member in vars(contract).items() if not isinstance(member, property)}
    if kind != "backbone":  # load() sets the attributes of a backbone, so a fresh one lacks them
        members |= set(inspect.get_annotations(contract))
    wanted = sorted(name for name in members if name == "__call__" or not name.startswith("_"))
    missing = [name for name in wanted if not hasattr(component, name)]
    if isinstance(component, type):
        raise error(f"{who} is a class; pass a name or an instance.")
    if missing:
        raise error(f"{who} lacks {', '.join(missing)}; xpsr_sdk.{contract.__name__} says what it must have.")


def _duplicate(rivals: Iterable[RegisteredComponent]) -> DuplicateComponent:
    first, *others = rivals
    who = f"The {_words(first.kind)} {first.spec.name!r}"
    if {c.distribution for c in others} == {first.distribution}:
        targets = " and ".join(c.spec.target for c in (first, *others))
        return DuplicateComponent(
            f"{who} is offered more than once by {first.distribution} {first.version} ({targets}); "
            f"its names must differ: tell its author."
        )
    sources = " and ".join(f"{c.distribution} {c.version} ({c.spec.target})" for c in (first, *others))
    return DuplicateComponent(
        f"{who} is offered by {sources}; choose one as {first.full_name!r}, uninstall one, or list those to load in "
        "XPSR_PLUGINS."
    )


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _words_in(names: str) -> set[str]:
    """The words of a name in small letters, without those of one or two letters."""
    return set(re.findall(r"[a-z0-9]{3,}", names.lower()))
