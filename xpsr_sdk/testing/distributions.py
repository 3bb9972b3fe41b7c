"""Checks an installed plug-in as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import xpsr_sdk
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.errors import DuplicateComponent
from xpsr_sdk.plugin_system.discovery import GROUP, installed_plugins
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.subject import Subject, check_common, clause_of, require

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "PIL", "tensorflow", "jax", "cv2")
"""Packages that listing components must not import."""
LIST = f"""
import json, sys
from xpsr_sdk import Registry
registry = Registry()
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print("LISTED", json.dumps({{"failures": list(map(str, registry.failures)), "loaded": loaded}}))
"""


def check_distribution(name: str) -> None:
    """Check an installed plug-in from outside: what it requires, how it loads, and what it offers.

    Its parts have their own checks, one for each kind.

    Args:
        name: The name of the distribution, for instance ``"xpsr-my-plugin"``.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    who = f"The distribution {name}"
    with clause_of(who, "distribution", "installed"):
        found = _installed(name)
    with clause_of(who, "distribution", "requirements"):
        _check_requirement(found)
    listed = _list_alone(found.name)
    with clause_of(who, "distribution", "names"):
        taken = [failure for failure in listed["failures"] if DuplicateComponent.__name__ in failure]
        require(not taken, " ".join(taken))
    with clause_of(who, "distribution", "loading"):
        require(not listed["failures"], " ".join(listed["failures"]))
    with clause_of(who, "distribution", "cheap listing"):
        require(not listed["loaded"], f"listing its components imported {', '.join(listed['loaded'])}")
    _check_components(who, found)


def _installed(name: str) -> Distribution:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        require(False, "it is not installed")
        raise
    points = [entry for entry in found.entry_points if entry.group == GROUP]
    require(bool(points), f"it has no entry point in the group {GROUP}")
    return found


def _check_requirement(found: Distribution) -> None:
    required = [Requirement(text) for text in found.requires or []]
    ours = [r for r in required if canonicalize_name(r.name) == "xpsr-sdk" and not r.marker]
    require(bool(ours), "it does not require xpsr-sdk")
    (specifier,) = {requirement.specifier for requirement in ours}
    fits = specifier.contains(xpsr_sdk.__version__, prereleases=True)
    require(fits, f"it requires xpsr-sdk{specifier}, and {xpsr_sdk.__version__} is installed")
    operators = {clause.operator for clause in specifier}
    require(
        bool(operators & {"<", "<=", "~=", "==", "==="}), f"it requires xpsr-sdk{specifier}, without an upper bound"
    )
    require(bool(operators & {">", ">=", "~=", "==", "==="}), f"it requires xpsr-sdk{specifier}, without a lower bound")


def _list_alone(name: str) -> dict[str, list[str]]:
    """The answer of a fresh interpreter that lists the components of this plug-in alone."""
    environment = {k: v for k, v in os.environ.items() if k != "XPSR_STRICT"} | {"XPSR_PLUGINS": name}
    run = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, env=environment)
    _, marker, answer = run.stdout.rpartition("LISTED")
    if not marker:
        problem = f"a fresh interpreter ended with exit code {run.returncode}: {run.stderr[-300:]}"
        return {"failures": [problem], "loaded": []}
    listed: dict[str, list[str]] = json.loads(answer)
    return listed


def _check_components(who: str, found: Distribution) -> None:
    name = canonicalize_name(found.name)
    registry = Registry(installed_plugins())
    own = [c for kind in KINDS for c in registry.components(kind) if canonicalize_name(c.distribution) == name]
    with clause_of(who, "distribution", "components"):
        require(bool(own), "it offers no component")
    for component in own:
        with clause_of(who, "distribution", "names"):
            require(component.state != "duplicate", str(component.error))
        with clause_of(who, "distribution", "components"):
            registry.resolve(component.kind, component.spec.name)
        if not _needs_options(registry, component.kind, component.spec.name):
            check_common(Subject(component.kind, component.spec.name, registry))


def _needs_options(registry: Registry, kind: str, name: str) -> bool:
    defaults = registry.find(kind, name).spec.defaults
    fields = registry.resolve(kind, name).Config.model_fields
    return any(field.is_required() and option not in defaults for option, field in fields.items())
