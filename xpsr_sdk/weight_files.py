"""Reading files of weights: ``.safetensors``, or files that torch pickled. Nothing but tensors is read from either."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from xpsr_sdk.errors import CheckpointError, one_line
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
    if file.suffix.lower() != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in flat_tensors(read_weights(file)).items()}
    check_regular(file, CheckpointError)
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read as weights: {one_line(error)}.") from None


def read_metadata(file: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file, or nothing for other files."""
    if file.suffix.lower() != ".safetensors":
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
    if file.exists():
        check_regular(file, CheckpointError)
    try:
        if file.suffix.lower() == ".safetensors":
            return load_file(file)
        # torch can map its present format, a zip archive, into memory, but not the format of versions before 1.6.
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except UnpicklingError:
        reason = "it is damaged, or holds more than tensors, and pickled code could do anything"
        raise CheckpointError(f"{file} cannot be read as weights: {reason}.") from None
    except Exception as error:  # a file that is not a pickle may cause any, often without a helpful message
        is_told = isinstance(error, OSError | RuntimeError | ValueError | SafetensorError)
        reason = one_line(error).removesuffix(".") if is_told else "it is damaged"
        raise CheckpointError(f"{file} cannot be read as weights: {reason}.") from None
    if not isinstance(weights, dict):
        raise CheckpointError(f"{file} cannot be read as weights: it holds a {type(weights).__name__}.")
    return weights
