"""Calls the hooks of a plug-in, and checks the specs that they return."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping

import pluggy
from pydantic_core import to_jsonable_python

from xpsr_sdk.contracts import KINDS, ComponentSpec
from xpsr_sdk.errors import did_you_mean, short
from xpsr_sdk.plugin_system import hookspecs

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What cannot be shown in a line of text: control characters, and lone surrogates (halves of characters)."""


def offers(plugin: object) -> Iterator[tuple[str, ComponentSpec]]:
    """All components that a plug-in offers, as pairs of kind and spec.

    Args:
        plugin: The module, or another object, that holds its hook implementations.

    Raises:
        NameError: The plug-in implements a hook that does not exist.
        TypeError, ValueError: The plug-in implements no hook, or does not mark one with ``@hookimpl``, or a hook
            returns anything but specs.
        BaseException: Whatever its hooks raise.
    """
    # Each plug-in has its own manager, so that none can see or stop the hooks of another.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    for kind, hook in KINDS.items():
        caller = getattr(manager.hook, hook)
        if any(implementation.wrapper or implementation.hookwrapper for implementation in caller.get_hookimpls()):
            raise TypeError(f"{hook} is marked as a wrapper; a hook must return specs, and must not wrap another")
        answers = caller()
        if len(answers) < len(caller.get_hookimpls()):  # pluggy leaves out the answer None
            raise TypeError(f"{hook} returned None; it must return an iterable of ComponentSpec")
        for specs in answers:
            for spec in _checked(hook, specs):
                yield kind, spec
    _check_hook_names(plugin)
    if not manager.get_hookcallers(plugin):
        raise TypeError(f"{plugin!r} implements no hook; the hooks are {', '.join(KINDS.values())}")


def _checked(hook: str, specs: object) -> Iterator[ComponentSpec]:
    if not isinstance(specs, Iterable):
        raise TypeError(f"{hook} returned {short(specs)}; it must return an iterable of ComponentSpec")
    for spec in specs:
        if not isinstance(spec, ComponentSpec):
            raise TypeError(f"{hook} returned a {type(spec).__name__}, {short(spec)}, where a ComponentSpec must be")
        _check_spec(hook, spec)
        yield spec


def _check_spec(hook: str, spec: ComponentSpec) -> None:
    named = isinstance(spec.name, str) and spec.name.split() == [spec.name] and spec.name.isprintable()
    if not named or ":" in spec.name:  # a colon separates the name of a distribution from that of a component
        raise ValueError(
            f"{hook} returned a ComponentSpec whose name is {short(spec.name)}; it must be a word without ':'"
        )
    who = f"{hook} returned the ComponentSpec {spec.name!r}"
    if not isinstance(spec.target, str) or not re.fullmatch(r"[\w.]+:[\w.]+", spec.target):
        raise ValueError(f"{who} whose target is {short(spec.target)}; it must be 'package.module:Class'")
    if not isinstance(spec.summary, str) or _CONTROL.search(spec.summary):
        raise TypeError(f"{who} whose summary is {short(spec.summary)}; it must be a line of text")
    if not isinstance(spec.defaults, Mapping) or not all(isinstance(name, str) for name in spec.defaults):
        raise TypeError(f"{who} whose defaults are {short(spec.defaults)}; they must be a mapping of options")
    try:
        to_jsonable_python(dict(spec.defaults))
    except Exception as error:
        problem = f"{who} whose defaults are {short(spec.defaults)}; they must be values that JSON can hold"
        raise TypeError(problem) from error


def _check_hook_names(plugin: object) -> None:
    """Refuse functions that look like hooks but would never be called."""
    for name in dir(plugin):
        function = getattr(plugin, name)
        if not inspect.isroutine(function):
            continue
        mark = getattr(function, f"{hookspecs.PROJECT}_impl", None)
        hook = (mark or {}).get("specname") or name
        if (mark is not None or name.startswith("xpsr_")) and hook not in KINDS.values():
            raise NameError(f"There is no hook {hook!r}. {did_you_mean(hook, KINDS.values())}")
        if mark is None and hook in KINDS.values():
            raise TypeError(f"The function {name!r} is not a hook implementation: it must be marked @xpsr_sdk.hookimpl")
