"""Reading files of weights: ``.safetensors``, or files that torch pickled. Nothing but tensors is read from either."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from warnings import catch_warnings
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from xpsr_sdk.errors import CheckpointError
from xpsr_sdk.files.reading import check_regular


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the named tensors of a file that holds nothing else, to the CPU. Where possible, they stay mapped to it.

    Raises:
        CheckpointError: The file is missing, damaged, or holds anything else.
    """
    weights = read_weights(file)
    if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(f"{file} cannot be read as weights: it must hold named tensors and nothing else.")
    return weights


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a file, by name. Only the header of a safetensors file is read.

    Tensors in dictionaries within a pickled file count, too, as in ``{"state_dict": {...}}``.

    Raises:
        CheckpointError: The file is missing, damaged or shorter than its header says.
    """
    if not is_safetensors(file):
        return {name: tuple(tensor.shape) for name, tensor in flat_tensors(read_weights(file)).items()}
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read as weights: {_reason(file, error)}.") from None


def is_safetensors(file: Path) -> bool:
    """Whether a file is read as safetensors: by its name, or by how it begins (the length of a header, and the header).

    Raises:
        CheckpointError: There is no such file.
    """
    check_regular(file, CheckpointError)
    if file.suffix.lower() == ".safetensors":
        return True
    with file.open("rb") as opened:
        begin = opened.read(9)
    return begin[8:] == b"{" and int.from_bytes(begin[:8], "little") < file.stat().st_size


def read_metadata(file: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file, or nothing for other files."""
    if not is_safetensors(file):
        return {}
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})


def flat_tensors(weights: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors in a dictionary and in those within it, with names like ``inner.name``.

    Those in ``state_dict``, as trainers write it, take the place of all others.
    """
    inner = weights.get("state_dict")
    found: dict[str, Tensor] = {}
    for name, value in (inner if isinstance(inner, dict) else weights).items():
        if isinstance(value, dict):
            found |= {f"{name}.{each}": tensor for each, tensor in flat_tensors(value).items()}
        elif isinstance(value, Tensor):
            found[str(name)] = value
    return found


def read_weights(file: Path) -> dict[str, Any]:
    """Read a file that may also hold numbers, texts, and dictionaries of tensors. Otherwise like ``read_tensors``.

    Raises:
        CheckpointError: The file is missing or damaged, or would run code when it is read.
    """
    try:
        if is_safetensors(file):
            return load_file(file)
        # torch can map its present format, a zip archive, into memory, but not the format of versions before 1.6.
        with catch_warnings(action="ignore"):  # about the pickle protocol, for programmers
            weights = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except CheckpointError:
        raise
    except Exception as error:
        reason = _reason(file, error)
        raise CheckpointError(f"{file} cannot be read as weights: {reason}.") from None
    if not isinstance(weights, dict):
        raise CheckpointError(f"{file} cannot be read as weights: it holds a {type(weights).__name__}.")
    return weights


def _reason(file: Path, error: Exception) -> str:
    """Why a file cannot be read. What is not a pickle may cause any error, often without a helpful message."""
    with file.open("rb") as opened:
        is_pickled = is_zipfile(file) or opened.read(1) == b"\x80"
    if is_pickled and file.suffix.lower() == ".safetensors":
        return "it is pickled, whatever its name says; named .ckpt, it is read as such, and tensors alone"
    if isinstance(error, UnpicklingError):
        unsafe = "it is damaged, or holds more than tensors, and pickled code could do anything"
        return unsafe if is_pickled else "it is damaged, or holds no weights at all"
    if isinstance(error, SafetensorError):
        is_cut = "incomplete" in str(error) or "too small" in str(error)
        what = "its end is missing" if is_cut else "its header is not that of a safetensors file"
        return f"it is damaged: {what}; copy or download it again"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it is damaged"
