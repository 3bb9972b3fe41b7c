"""Imports the class of a component, and checks its defaults and what is built of it."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from numbers import Integral
from typing import Any

from pydantic import ValidationError

from xpsr_sdk.contracts import CONTRACTS, ComponentSpec, Options
from xpsr_sdk.errors import ConfigError, XPSRError, did_you_mean, short, wrong_option
from xpsr_sdk.plugin_system.source_options import options_in_source


def imported_class(target: str) -> type[Any] | None:
    """The class of a target, if its module is imported already. None otherwise: importing it might load torch."""
    module, _, path = target.partition(":")
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, "__dict__", {}).get(name)  # getattr might make a lazy module import others
    return found if isinstance(found, type) else None


def import_class(target: str) -> type[Any]:
    """The class of a target.

    Raises:
        TypeError: It is no class, or has no ``Config``.
        BaseException: Whatever its module raises.
    """
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


def wrong_defaults(spec: ComponentSpec, part: type[Any] | None) -> ConfigError | None:
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
        return _defaults_error(lines)
    except Exception:  # the class's own validator failed: reported when the component is given its options
        return None
    return None


def misspelt_defaults(spec: ComponentSpec) -> ConfigError | None:
    """The ``defaults`` of a spec that are no options, as far as the source text of its class tells."""
    known = options_in_source(spec.target) if spec.defaults else None
    unknown = [] if known is None else [name for name in spec.defaults if name not in known]
    lines = [f"  {name}: there is no such option. {did_you_mean(name, known or ())}" for name in unknown]
    return _defaults_error(lines)


def _defaults_error(lines: list[str]) -> ConfigError | None:
    return ConfigError("\n".join(["The defaults of its ComponentSpec are wrong:", *lines])) if lines else None


_NUMBERS = {"degradation_model": {"scale": 1}, "upscaler": {"scale": 1, "halo": 0}, "metric": {"min_side": 1}}
"""Of the parts of each kind, the attributes that are whole numbers, and the least."""


def check_numbers(kind: str, component: object, who: str, error: type[XPSRError]) -> None:
    """Raise ``error``, about ``who``, unless the attributes in ``_NUMBERS`` are such numbers."""
    for name, least in _NUMBERS.get(kind, {}).items():
        value = getattr(component, name)
        if not isinstance(value, Integral) or value < least:
            raise error(f"{who} has {name} {short(value)}: it must be a whole number of at least {least}.")


def check_contract(kind: str, component: object, who: str, error: type[XPSRError]) -> None:
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
