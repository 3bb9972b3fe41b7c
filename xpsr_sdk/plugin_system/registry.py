"""Loads plug-ins, makes sure that a broken one does not harm the others, and finds components by name."""

from __future__ import annotations

import logging
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import ValidationError

import xpsr_sdk
from xpsr_sdk.contracts import KINDS, ComponentSpec, Options, kind_in_words
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
)
from xpsr_sdk.plugin_system.discovery import SDK, Plugin, as_plugin, installed_plugins, normalized
from xpsr_sdk.plugin_system.marks import set_mark
from xpsr_sdk.plugin_system.offers import offers
from xpsr_sdk.plugin_system.part_classes import (
    check_contract,
    check_numbers,
    import_class,
    imported_class,
    misspelt_defaults,
    wrong_defaults,
)
from xpsr_sdk.plugin_system.registered import (
    PluginFailure,
    RegisteredComponent,
    State,
    duplicate_error,
    errors_as_broken_plugin,
    unusable,
)
from xpsr_sdk.plugin_system.scope import parts_come_from

_log = logging.getLogger(__name__)
_loading = ContextVar("loading", default=False)
"""Whether a plug-in is being loaded."""


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
            raise duplicate_error(usable)
        if found:
            raise unusable(found[0], found[0].error)
        raise self._unknown(kind, name)

    def resolve(self, kind: str, name: str) -> type[Any]:
        """Import the class of a component.

        Raises:
            PluginError: As ``find``.
            BrokenPlugin: The class cannot be imported, or has no ``Config`` derived from ``Options``, or does not
                accept the ``defaults`` of the component.
        """
        component = self.find(kind, name)
        with errors_as_broken_plugin(component, "imported"):
            found = import_class(component.spec.target)
        if problem := wrong_defaults(component.spec, found):
            raise unusable(component, problem)
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
        with errors_as_broken_plugin(component, "given options", (XPSRError,)):
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
            raise ConfigError(f"No {kind_in_words(kind)} is chosen. {self._hint(kind)}")
        if not isinstance(choice, str | Mapping):
            who = f"The {kind_in_words(kind)} that was passed, {short(choice)},"
            check_contract(kind, choice, who, ConfigError)
            check_numbers(kind, choice, who, ConfigError)
            return choice
        config = self.config(kind, choice)
        name, _ = _name_and_options(kind, choice)
        component = self.find(kind, name)
        with errors_as_broken_plugin(component, "built", (XPSRError,)), self.in_force():
            built = self.resolve(kind, name)(config, *args)
            check_contract(kind, built, f"The {component}", BrokenPlugin)
            check_numbers(kind, built, f"The {component}", BrokenPlugin)
        set_mark(built, component.mark)
        return built

    def _unknown(self, kind: str, name: str) -> PluginError:
        """The error that says why there is no such component: the name is wrong, or its plug-in is probably broken."""
        hint = self._hint(kind, name)
        broken = [failure for failure in self.failures if not isinstance(failure.error, DuplicateComponent)]
        likely = [failure for failure in broken if failure.may_offer(name)]
        if likely:
            reasons = " ".join(map(str, likely))
            error = BrokenPlugin(f"No working plug-in offers the {kind_in_words(kind)} {name!r}. {reasons} {hint}")
            error.__cause__ = likely[0].error
            return error
        notes = "".join(f" Note: {failure}" for failure in broken)
        return UnknownComponent(f"No plug-in offers the {kind_in_words(kind)} {name!r}. {hint}{notes}")

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
            problem = error or wrong_defaults(spec, imported_class(spec.target)) or misspelt_defaults(spec)
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
                raise unusable(component, component.error) if component.state == "broken" else component.error

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
                self._components[index] = replace(component, state="duplicate", error=duplicate_error(rivals))


@cache
def default_registry() -> Registry:
    """The registry of the built-in and the installed plug-ins. It is made at the first call."""
    return Registry()


def _name_and_options(kind: str, choice: object) -> tuple[str, dict[str, Any]]:
    options = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f'The {kind_in_words(kind)} {short(choice)} has no name; write "name" or {{"name": "...", ...}}.'
        )
    return name, options


def _merged(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options over a preset's defaults. In a nested group, only the options that are given change."""
    merged = {**defaults, **options}
    for name in defaults.keys() & options.keys():
        if isinstance(defaults[name], Mapping) and isinstance(options[name], Mapping):
            merged[name] = {**defaults[name], **options[name]}
    return merged
