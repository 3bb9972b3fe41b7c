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
    ├── NonFiniteResult         NaN or infinity was computed: there is no image to write
    ├── QueueError              a restoration queue cannot take a photo
    │   ├── QueueFull           it is full
    │   └── QueueClosed         it was closed
    ├── WorkerLost              a worker process died, or hung
    └── TrainingError           training cannot start or go on

Every message says what was wrong, where, and what would be right.
"""

from __future__ import annotations

import difflib
import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but the newline, marks that turn the direction of text, and bytes of names that are no UTF-8."""
_VALIDATOR = re.compile("^(Value error|Assertion failed), ")
"""The prefix that pydantic adds to the message of a validator."""
_BRANCH = re.compile(r"(str|int|float|bool|Path)$|(dict|list|tuple|literal|lax-or-strict|function-[\w-]+)\[")
"""Parts of pydantic's places that name no field, but one of the types that a field may have."""


class XPSRError(Exception):
    """Base of all exceptions that this package raises on purpose.

    What a terminal would take for a command is escaped in the message, which may quote a file's name or its content.
    """

    def __str__(self) -> str:
        return visible(super().__str__())


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
    """A plug-in failed to import, to be built or to work, or gave a wrong answer; ``__cause__`` is its exception."""


class CheckpointError(XPSRError):
    """Weights are missing, damaged or of another architecture."""


class ImageError(XPSRError):
    """An image cannot be read, restored or written."""


class NonFiniteResult(XPSRError):
    """A part or a network computed NaN or infinity, of which no image can be made."""


class QueueError(XPSRError):
    """A restoration queue cannot take a photo."""


class QueueFull(QueueError):
    """The restoration queue is full."""


class QueueClosed(QueueError):
    """The restoration queue was closed."""


class WorkerLost(XPSRError):
    """A worker process died or hung while it worked on a photo."""


class TrainingError(XPSRError):
    """Training cannot start or go on."""


SHORTEST_PART = 3
"""Letters of a name that may stand for it in a hint."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the most similar valid name, then all valid names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if not near and len(name) >= SHORTEST_PART:  # a part of a name, as steps is of num_inference_steps
        near = sorted((each for each in names if name.casefold() in each.casefold()), key=len)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."


def visible(text: str, newline: str = "\n") -> str:
    """Text with what a terminal would take for a command, or what cannot be shown, in the form of Python's escapes.

    Args:
        text: What is to be shown, which may come from a file or its name.
        newline: What stands for a newline; for text that is to stay in one line, the two characters of its escape.
    """
    escaped = _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return escaped.replace("\n", newline)


def without_secret(text: str, secret: str) -> str:
    """Text with ``***`` for a secret; a short one may be a part of words, which are left alone."""
    if not secret:
        return text
    if len(secret) >= 8:
        return text.replace(secret, "***")
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)


def one_line(error: BaseException | None, secret: str = "") -> str:
    """Type and message of an exception in one line of limited length, for the end of another error message.

    What the operating system refused is told by its words and the file, without a type and a number.

    Args:
        error: The exception.
        secret: A text that is replaced by ``***``, for instance an API key.
    """
    of_system = _of_system(error)
    try:
        text = of_system or str(error)
    except Exception:  # a third-party exception whose __str__ itself fails
        text = "its message cannot be shown"
    text = without_secret(" ".join(text.split()), secret)  # before the text is cut, which could leave half of it
    text = _cut(text, 300)
    return text if of_system else f"{type(error).__name__}: {text}" if text else type(error).__name__


def _of_system(error: BaseException | None) -> str:
    """What the operating system refused, and for which file; nothing for other errors."""
    if not (isinstance(error, OSError) and error.errno and error.strerror):
        return ""
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"


def told_by_library(error: BaseException) -> str:
    """What a library says about a damaged file, in brackets and behind a space, for the end of another message.

    Libraries raise ``ValueError`` to tell people something; of that, it is the first sentence. By a ``TypeError``, a
    ``KeyError`` and the like they only stumble, and their words help nobody who does not know their code: then there
    is nothing to add.
    """
    is_told = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    first = re.split(r"[.!] ", " ".join(str(error).split()))[0].removesuffix(".") if is_told else ""
    words = re.sub(r"torch\.Size\((.*?)\)", r"\1", first)
    return f" ({_cut(words, 300)})" if words else ""


def print_traceback() -> None:
    """Print where the error that is being handled came from, if the environment variable ``XPSR_TRACEBACK`` is 1."""
    if os.environ.get("XPSR_TRACEBACK") == "1":
        traceback.print_exc()


def short(value: object) -> str:
    """The ``repr`` of a value for an error message, cut to 80 characters."""
    try:
        text = repr(value)
    except Exception:  # a third-party class whose __repr__ itself fails
        text = f"<{type(value).__name__}>"
    return _cut(text, 80)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def config_error(where: str, error: ValidationError, schema: type[BaseModel]) -> ConfigError:
    """A ``ConfigError`` with a line for each wrong field: its name, what is allowed and what was given.

    Args:
        where: What is wrong, to begin the message with, for instance ``"The file train.toml"``.
        error: What pydantic raised.
        schema: The model that was validated.
    """
    details: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for detail in error.errors(include_url=False):
        place = tuple(part for part in detail["loc"] if not _BRANCH.match(str(part)))
        details.setdefault(place, []).append({**detail, "loc": place})
    lines = [wrong_option(first, schema, others) for first, *others in details.values()]
    return ConfigError("\n".join([f"{where} has wrong options:", *lines]))


def wrong_option(detail: Mapping[str, Any], schema: type[BaseModel], others: Sequence[Mapping[str, Any]] = ()) -> str:
    """A line for ``config_error`` about one of the errors that pydantic lists.

    ``others`` are those about the same field, where several types are allowed, of which pydantic tells one by one.
    """
    field = ".".join(str(part) or "''" for part in detail["loc"]) or "all together"
    if detail["type"] == "extra_forbidden":
        owner = _owner(detail["loc"], schema)
        hint = did_you_mean(str(detail["loc"][-1]), owner.model_fields) if owner else ""
        return f"  {field}: there is no such option. {hint}".rstrip()
    if detail["type"] == "missing":
        return f"  {field}: is required."
    rules = dict.fromkeys(map(_rule, (detail, *others)))
    rule = " or ".join(rules).replace(" or must be ", " or ")
    if rule.endswith("."):  # a rule that a validator tells in a sentence of its own
        return f"  {field}: {rule}"
    return f"  {field}: {rule}, not {short(detail['input'])}.{_near_choice(detail)}"


_RULES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "too_short": "must be a list of {min_length} or more",
    "too_long": "must be a list of {max_length} at most",
    "string_too_short": "must be text of {min_length} or more characters",
    "string_too_long": "must be text of at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
"""What each type of pydantic's errors says is right. Others are told in pydantic's own words."""


def _rule(detail: Mapping[str, Any]) -> str:
    words = _RULES.get(detail["type"])
    limits = {name: f"{v:g}" if isinstance(v, float) else v for name, v in detail.get("ctx", {}).items()}
    return words.format(**limits) if words else _VALIDATOR.sub("", detail["msg"])


def _near_choice(detail: Mapping[str, Any]) -> str:
    """A hint for a misspelt word of a few."""
    if detail["type"] != "literal_error" or not isinstance(detail["input"], str):
        return ""
    near = difflib.get_close_matches(detail["input"], re.findall("'([^']*)'", detail["ctx"]["expected"]), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _owner(place: Sequence[Any], schema: type[BaseModel]) -> type[BaseModel] | None:
    """The model that lacks the field at ``place``; None if that cannot be told."""
    for part in place[:-1]:
        field = schema.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if inner is None:
            return None
        schema = inner
    return schema
