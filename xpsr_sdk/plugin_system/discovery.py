"""Finds the plug-ins of all installed distributions, even of damaged ones, without importing them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, distributions
from typing import TYPE_CHECKING, Any, NoReturn

import xpsr_sdk
from xpsr_sdk.errors import BrokenPlugin, ConfigError, IncompatiblePlugin, did_you_mean, one_line

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GROUP = "xpsr_sdk"
"""The entry-point group of plug-ins."""
SDK = "xpsr-sdk"
"""The SDK's own distribution."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in before it is loaded.

    Attributes:
        distribution: The distribution that the plug-in is part of.
        version: The version of that distribution.
        load: Returns the module (or any other object) that holds the hook implementations.
        entry_point: Its entry point, ``name = module``, if it has one.
    """

    distribution: str
    version: str
    load: Callable[[], object]
    entry_point: str = ""


def as_plugin(plugin: object) -> Plugin:
    """Wrap a module, or any other object that holds hook implementations, as a ``Plugin``."""
    if isinstance(plugin, Plugin):
        return plugin
    name = getattr(plugin, "__name__", type(plugin).__name__)
    by_name = sys.modules.get(name) is plugin  # then a worker process can load it, too
    load = partial(import_module, name) if by_name else lambda: plugin
    return Plugin(name, str(getattr(plugin, "__version__", "0")), load)


def installed_plugins() -> list[Plugin]:
    """The plug-ins in the entry-point group ``xpsr_sdk``, in the order of their names.

    The environment variable ``XPSR_PLUGINS`` limits them to the distributions that it lists, separated by
    commas; if it is set but empty, there are none. The list also holds plug-ins that will fail when they are loaded,
    so that somebody is told: those of a distribution that ``XPSR_PLUGINS`` lists but that has no plug-in, that
    requires another version of the SDK, or whose metadata is damaged but still shows that it has plug-ins.
    """
    found = sorted(_found_plugins(), key=lambda plugin: plugin.distribution)
    limit = os.environ.get("XPSR_PLUGINS")
    if limit is None:
        return found
    wanted = {normalized(name): name.strip() for name in limit.split(",") if name.strip()}
    present = {normalized(plugin.distribution) for plugin in found}
    absent = [_absent_plugin(name, present) for key, name in wanted.items() if key not in present]
    return [plugin for plugin in found if normalized(plugin.distribution) in wanted] + absent


def damaged_distributions() -> list[str]:
    """The names of all installed distributions, plug-ins or not, whose entry points cannot be read."""
    damaged = []
    for found in distributions():
        try:
            found.entry_points  # noqa: B018  # a property that reads the file
        except Exception:
            damaged.append(_name_and_version(found)[0])
    return damaged


def reason(error: BaseException | None, plugin: str) -> str:
    """The error of a plug-in in one line. If a module is missing, the line says what to install, if that is known.

    Args:
        error: What the plug-in's code raised.
        plugin: The name of its distribution, whose metadata says what it requires.
    """
    message = one_line(error)
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return message
    missing = normalized(error.name.partition(".")[0].replace("_", "-"))
    try:
        requirements = _requirements(distribution(plugin))
    except Exception:  # not installed, or with metadata that cannot be read
        return message
    for requirement in requirements:
        name = normalized(requirement.name)
        if name == missing or name.startswith(f"{missing}-") or name.endswith(f"-{missing}"):
            extra = re.search(r"extra == ['\"]([^'\"]+)", str(requirement.marker or ""))
            return f"{message}; pip install '{f'{plugin}[{extra[1]}]' if extra else requirement.name}' may help"
    return message


def _found_plugins() -> Iterator[Plugin]:
    # importlib.metadata.entry_points() is not used, since it raises if any distribution at all is damaged.
    known: set[str] = set()
    for found in distributions():
        if not _has_plugins(found):
            continue
        name, version = _name_and_version(found)
        if normalized(name) not in known and not _shadowed(found, name):
            known.add(normalized(name))
            yield from (Plugin(name, version, load, entry) for entry, load in _loaders(found).items())


def _has_plugins(found: Distribution) -> bool:
    try:
        return f"[{GROUP}]" in (found.read_text("entry_points.txt") or "")
    except UnicodeDecodeError as error:
        return f"[{GROUP}]".encode() in error.object
    except Exception:  # nothing shows that it has plug-ins
        return False


def _shadowed(found: Distribution, name: str) -> bool:
    """Whether Python imports another distribution of the same name, which stands earlier on the path."""
    try:
        return _folder(distribution(name)) != _folder(found)
    except PackageNotFoundError:  # damaged: only its folder is known
        return False


def _folder(found: Distribution) -> Any:
    return getattr(found, "_path", None)


def _name_and_version(found: Distribution) -> tuple[str, str]:
    try:
        metadata: Any = found.metadata
    except Exception:  # a damaged installation
        metadata = {}
    folder = getattr(_folder(found), "name", "?")
    return metadata.get("Name") or f"(unnamed, {folder})", metadata.get("Version") or "(unknown)"


def _loaders(found: Distribution) -> dict[str, Callable[[], object]]:
    """The entry points of a distribution's plug-ins, each with a function that loads it, or raises why it cannot."""
    try:
        entries = found.entry_points.select(group=GROUP)
    except Exception as error:
        return {"": _raises(_unreadable("entry_points.txt", error))}
    by_module = {entry.value: entry for entry in entries}  # a module is one plug-in, even if two entries name it
    return {f"{entry.name} = {entry.value}": partial(_load, found, entry) for entry in by_module.values()}


def _load(found: Distribution, entry: EntryPoint) -> object:
    """Import the module of an entry point, if the plug-in was made for this version of the SDK."""
    _check_sdk_version(found)
    if not EntryPoint.pattern.match(entry.value):
        raise BrokenPlugin(f"Its entry point must read 'name = package.module', not '{entry.name} = {entry.value}'.")
    return entry.load()


def _check_sdk_version(plugin: Distribution) -> None:
    """Raise ``IncompatiblePlugin`` if the metadata of ``plugin`` requires another version of the SDK than this one."""
    for requirement in _requirements(plugin):
        ours = normalized(requirement.name) == SDK and (not requirement.marker or requirement.marker.evaluate())
        if ours and not requirement.specifier.contains(xpsr_sdk.__version__, prereleases=True):
            raise IncompatiblePlugin(
                f"It requires {SDK}{requirement.specifier}, but {xpsr_sdk.__version__} is installed; "
                f"install a version that fits: pip install --upgrade {SDK} {plugin.metadata['Name']}"
            )


def _requirements(plugin: Distribution) -> list[Requirement]:
    from packaging.requirements import Requirement  # imported late, since most installations have no plug-ins

    try:
        texts = plugin.requires or []
    except Exception as error:
        raise _unreadable("METADATA", error) from error
    return [Requirement(text) for text in texts]


def _unreadable(file: str, error: Exception) -> BrokenPlugin:
    problem = BrokenPlugin(f"Its {file} cannot be read ({one_line(error)}); install it again.")
    problem.__cause__ = error
    return problem


def _absent_plugin(name: str, present: Iterable[str]) -> Plugin:
    problem = f"XPSR_PLUGINS lists it, but it is not installed. {did_you_mean(name, present)}"
    return Plugin(name, "(absent)", _raises(ConfigError(problem)))


def _raises(error: Exception) -> Callable[[], NoReturn]:
    return partial(_raise, error)  # unlike a nested function, this can be sent to a worker process


def _raise(error: Exception) -> NoReturn:
    raise error


def normalized(distribution: str) -> str:
    """The name of a distribution as packaging tools compare it."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()
