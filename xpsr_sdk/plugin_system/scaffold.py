"""Writes new plug-ins from the templates in ``xpsr_sdk/plugin_system/templates``. Loads no large package.

A template is a complete distribution named ``xpsr-my-plugin`` that works as it is. Files that all kinds share lie in
``common/``; each kind has a folder for the others.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from xpsr_sdk.contracts import KINDS, kind_in_words
from xpsr_sdk.errors import ConfigError, did_you_mean
from xpsr_sdk.plugin_system.registry import Registry

TEMPLATES = Path(__file__).parent / "templates"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write_plugin(kind: str, name: str, registry: Registry, folder: Path | None = None) -> Path:
    """Write a distribution that offers one component. If it fails, no files remain.

    Args:
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        name: The name of the component; the distribution is called ``xpsr-NAME``.
        registry: The registry in which the name must not be taken yet.
        folder: Where to write. None: ``xpsr-NAME`` in the current folder.

    Returns:
        The folder.

    Raises:
        ConfigError: The kind is unknown, the name is invalid or taken, or the folder exists or cannot be written.
    """
    if kind not in KINDS:
        raise ConfigError(f"There is no kind of component {kind!r}. {did_you_mean(kind, KINDS)}")
    _check_name(kind, name, registry)
    folder = Path(f"xpsr-{name}") if folder is None else folder
    if folder.exists():
        raise ConfigError(f"{folder} exists already: name another folder with -o, or remove it.")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.absolute().parent) as temporary:
            partial = Path(temporary, folder.name)
            _fill(partial, kind, name)
            partial.rename(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.filename}: {error.strerror}).") from error
    return folder


def _check_name(kind: str, name: str, registry: Registry) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a valid name for a component: a name begins with a small letter and consists of small "
            f"letters, digits and single hyphens, like 'film-grain'."
        )
    if name.startswith("xpsr-"):
        raise ConfigError(f"Leave out the 'xpsr-' of {name!r}: the name of the distribution gets it automatically.")
    for component in registry.components(kind):
        if component.spec.name == name:
            raise ConfigError(f"There is a {component} already: choose another name, since names must be unique.")


def _fill(folder: Path, kind: str, name: str) -> None:
    """Copy the templates, and replace the template's names by this plug-in's, in the files and in their paths."""
    words = {
        "MyPlugin": "".join(part.capitalize() for part in name.split("-")),
        "my_plugin": name.replace("-", "_"),
        "my-plugin": name,
        "KIND_NAME": kind,
        "KIND_WORDS": kind_in_words(kind),
    }

    def renamed(text: str) -> str:
        for template, own in words.items():
            text = text.replace(template, own)
        return text

    for source in (TEMPLATES / "common", TEMPLATES / kind):
        for file in sorted(source.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                target = folder / renamed(str(file.relative_to(source)))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(renamed(file.read_text(encoding="utf-8")), encoding="utf-8")
