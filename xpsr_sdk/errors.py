"""The exceptions of the SDK.

    XPSRError                   anything this package raises on purpose
    ├── ConfigError             an option, a config file or a combination of them is wrong
    ├── PluginError             a plug-in could not be used
    │   ├── UnknownComponent    no plug-in offers that name
    │   ├── DuplicateComponent  two distributions offer the same name
    │   ├── IncompatiblePlugin  the plug-in was made for another version of the SDK
    │   └── BrokenPlugin        the plug-in failed; ``__cause__`` is its own exception
    ├── CheckpointError         weights are missing, damaged or of another architecture
    ├── ImageError              an image cannot be read, restored or written
    ├── QueueError              a restoration queue cannot take a photo
    │   ├── QueueFull           it is full
    │   └── QueueClosed         it was closed
    └── TrainingError           training cannot start or go on

Every message says what was wrong, where, and what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XPSRError(Exception):
    """Base of all exceptions that this package raises on purpose."""


class ConfigError(XPSRError):
    """An option, a config file or a combination of them is wrong."""


class PluginError(XPSRError):
    """A plug-in could not be used."""


class UnknownComponent(PluginError):
    """No plug-in offers a component of that name."""


class DuplicateComponent(PluginError):
    """Two distributions offer a component of the same kind and name."""


class IncompatiblePlugin(PluginError):
    """A plug-in's distribution requires another version of the SDK."""


class BrokenPlugin(PluginError):
    """A plug-in failed to import, to register or to be built; ``__cause__`` is its own exception."""


class CheckpointError(XPSRError):
    """Weights are missing, damaged or of another architecture."""


class ImageError(XPSRError):
    """An image cannot be read, restored or written."""


class QueueError(XPSRError):
    """A restoration queue cannot take a photo."""


class QueueFull(QueueError):
    """The restoration queue is full."""


class QueueClosed(QueueError):
    """The restoration queue was closed."""


class TrainingError(XPSRError):
    """Training cannot start or go on."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that lists the valid names, the nearest first: to end an error message with."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."


def one_line(error: BaseException | None, secret: str = "") -> str:
    """Any exception in one line, without the secret, cut where it gets long: to end an error message with."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # whoever wrote that exception
        text = "its message cannot be had"
    if secret:
        text = text.replace(secret, "***")  # before it is cut: half of it is one, too
    text = text if len(text) <= 300 else f"{text[:297]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def short(value: object) -> str:
    """Any value as an error message shows it: its ``repr``, cut where it gets long."""
    try:
        text = repr(value)
    except Exception:  # whoever wrote that class
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
