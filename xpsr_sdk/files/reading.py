"""Reads JSON and TOML files, which may be damaged, or made in order to do harm.

Only regular files are read, since a FIFO or a device may never end, and only up to a limit. What they hold must be
UTF-8 (a byte order mark is left out), must not be nested deeply, and must hold finite numbers alone.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from xpsr_sdk.errors import XPSRError, wrong_option

LARGEST = 2**24
"""Bytes of a JSON or TOML file that is read: settings and indexes take much less."""
DEEPEST = 50
"""Levels to which objects and lists may be nested."""

Model = TypeVar("Model", bound=BaseModel)


def check_regular(file: Path, raises: type[XPSRError]) -> None:
    """Raise ``raises`` unless ``file`` is a regular file, or a link to one. It is not opened: a FIFO would wait."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        where = f"is a link to {os.readlink(file)}, which" if file.is_symlink() else ""
        raise raises(f"{' '.join(filter(None, (str(file), where)))} does not exist.") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise raises(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not S_ISREG(mode):
        raise raises(f"{file} cannot be read: it is a {'folder' if S_ISDIR(mode) else 'device or a pipe'}, not a file.")


def read_bytes(file: Path, raises: type[XPSRError], largest: int = LARGEST) -> bytes:
    """The content of a file of at most ``largest`` bytes.

    Raises:
        XPSRError: Of the type ``raises``: there is no such file, it cannot be read, or it is larger.
    """
    check_regular(file, raises)
    try:
        with file.open("rb") as content:
            found = content.read(largest + 1)
    except OSError as error:
        raise raises(f"{file} cannot be read: {error.strerror}.") from None
    if len(found) > largest:
        raise raises(f"{file} is refused as too large: it has more than {largest / 2**20:.0f} MiB.")
    return found


def read_json(file: Path, raises: type[XPSRError]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        XPSRError: Of the type ``raises``: it cannot be read, or holds something else.
    """
    return parse_json(read_bytes(file, raises), str(file), raises)


def parse_json(content: bytes, where: str, raises: type[XPSRError]) -> dict[str, Any]:
    """The object in a JSON text, which error messages call ``where``."""
    return _parsed(content, _json_object, f"{where} is damaged or no JSON file", raises)


def json_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects in the lines of a log. Other lines are left out, such as one that a kill cut off."""
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def read_toml(file: Path, raises: type[XPSRError]) -> dict[str, Any]:
    """The tables in a TOML file.

    Raises:
        XPSRError: Of the type ``raises``: it cannot be read, or is not TOML.
    """
    return parse_toml(read_bytes(file, raises), str(file), raises)


def parse_toml(content: bytes, where: str, raises: type[XPSRError]) -> dict[str, Any]:
    """The tables in a TOML text, which error messages call ``where``."""
    return _parsed(content, tomllib.loads, f"{where} cannot be read as a TOML file", raises)


def validated(cls: type[Model], values: object, where: str, raises: type[XPSRError]) -> Model:
    """What was read, as a pydantic model. The message names the first field that is wrong.

    Raises:
        XPSRError: Of the type ``raises``: a field is missing or wrong.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        more = f" ({len(details) - 1} more fields are wrong.)" if len(details) > 1 else ""
        raise raises(f"{where} is damaged or not what it should be: {_sentence(details[0], cls)}{more}") from None


def _parsed(
    content: bytes, parse: Callable[[str], dict[str, Any]], problem: str, raises: type[XPSRError]
) -> dict[str, Any]:
    """What ``parse`` makes of a text. ``problem`` begins the error messages."""
    try:
        found = parse(content.decode("utf-8-sig"))
        _check(found, "")
    except UnicodeDecodeError:
        raise raises(f"{problem}: it is not UTF-8.") from None
    except RecursionError:
        raise raises(f"{problem}: it is nested too deeply.") from None
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise raises(f"{problem}: what stands at {at} is not JSON.") from None
    except ValueError as error:
        raise raises(f"{problem}: {error}.") from None
    return found


def _json_object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it must hold an object: it does not begin with a brace")
    return found


def _sentence(detail: Any, cls: type[BaseModel]) -> str:
    return wrong_option(detail | {"loc": detail["loc"][:1]}, cls).strip()  # the rest names pydantic's own branches


def _check(value: object, where: str, depth: int = 0) -> None:
    """Raise ``ValueError`` if something is nested too deeply, or not a finite number."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where or 'a value'} is {value}, but numbers must be finite")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check(inner, f"{where}.{name}" if where else str(name), depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, where, depth + 1)
