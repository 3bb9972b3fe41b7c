"""Finds the plug-ins of the installed distributions, the damaged ones included, without importing them."""

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
        distribution: The distribution that brings it.
        version: The version of that distribution.
        load: Gives the module (or any other object) that holds the hook implementations.
        entry_point: Its entry point, ``name = module``, if it has one.
    """

    distribution: str
    version: str
    load: Callable[[], object]
    entry_point: str = ""


def as_plugin(plugin: object) -> Plugin:
    """A plug-in of a module, or of any other object that holds hook implementations."""
    if isinstance(plugin, Plugin):
        return plugin
    name = getattr(plugin, "__name__", type(plugin).__name__)
    by_name = sys.modules.get(name) is plugin  # so that a worker process can load it, too
    load = partial(import_module, name) if by_name else lambda: plugin
    return Plugin(name, str(getattr(plugin, "__version__", "0")), load)


def installed_plugins() -> list[Plugin]:
    """The plug-ins in the entry-point group ``xpsr_sdk``, in the order of their names.

    The environment variable ``XPSR_PLUGINS`` limits them to the distributions that it lists, separated by
    commas; if it is set but empty, there are none. Given as plug-ins that fail to load are: a listed distribution
    that brings none, one that requires another version of the SDK, and one whose metadata is damaged, as far as it
    can be told that there is a plug-in in it.
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
    """An error of the distribution ``plugin`` in one line; of a missing module, with what to install, if it is known.

    Args:
        error: What its code raised.
        plugin: The distribution, whose metadata tells what it requires.
    """
    told = one_line(error)
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return told
    missing = normalized(error.name.partition(".")[0].replace("_", "-"))
    try:
        requirements = _requirements(distribution(plugin))
    except Exception:  # not installed, or with metadata that cannot be read
        return told
    for requirement in requirements:
        name = normalized(requirement.name)
        if name == missing or name.startswith(f"{missing}-") or name.endswith(f"-{missing}"):
            extra = re.search(r"extra == ['\"]([^'\"]+)", str(requirement.marker or ""))
            return f"{told}; pip install '{f'{plugin}[{extra[1]}]' if extra else requirement.name}' may help"
    return told


def _found_plugins() -> Iterator[Plugin]:
    # Not by importlib.metadata.entry_points(), which raises if any distribution at all is damaged.
    known: set[str] = set()
    for found in distributions():
        if not _brings_plugins(found):
            continue
        name, version = _name_and_version(found)
        if normalized(name) not in known and not _shadowed(found, name):
            known.add(normalized(name))
            yield from (Plugin(name, version, load, entry) for entry, load in _loaders(found).items())


def _brings_plugins(found: Distribution) -> bool:
    try:
        return f"[{GROUP}]" in (found.read_text("entry_points.txt") or "")
    except UnicodeDecodeError as error:
        return f"[{GROUP}]".encode() in error.object
    except Exception:  # nothing says that there is a plug-in in it
        return False


def _shadowed(found: Distribution, name: str) -> bool:
    """Whether another distribution of that name, with plug-ins or without, is the one that Python imports."""
    try:
        return _folder(distribution(name)) != _folder(found)
    except PackageNotFoundError:  # damaged: it is known by its folder alone
        return False


def _folder(found: Distribution) -> Any:
    return getattr(found, "_path", None)  # which tells where to look


def _name_and_version(found: Distribution) -> tuple[str, str]:
    try:
        metadata: Any = found.metadata
    except Exception:  # a damaged installation
        metadata = {}
    folder = getattr(_folder(found), "name", "?")
    return metadata.get("Name") or f"(unnamed, {folder})", metadata.get("Version") or "(unknown)"


def _loaders(found: Distribution) -> dict[str, Callable[[], object]]:
    """For the entry point of each plug-in of a distribution, what loads it, or raises why it cannot be loaded."""
    try:
        entries = found.entry_points.select(group=GROUP)
    except Exception as error:
        return {"": _raises(_unreadable("entry_points.txt", error))}
    by_module = {entry.value: entry for entry in entries}  # a module is one plug-in, whoever names it
    return {f"{entry.name} = {entry.value}": partial(_load, found, entry) for entry in by_module.values()}


def _load(found: Distribution, entry: EntryPoint) -> object:
    """The module of an entry point, which is imported only if it was made for this version of the SDK."""
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
    from packaging.requirements import Requirement  # only where there are plug-ins

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
    return partial(_raise, error)  # which, unlike a function within this one, a worker process can be handed


def _raise(error: Exception) -> NoReturn:
    raise error


def normalized(distribution: str) -> str:
    """The name of a distribution as packaging tools compare it."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()
