"""Networks of diffusers and transformers from folders: every weight comes from a safetensors file.

Both libraries fill what they do not find in a file with random numbers, and tell so in a log that few people read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from xpsr_sdk.errors import CheckpointError, XPSRError, one_line
from xpsr_sdk.files.reading import check_regular, read_json
from xpsr_sdk.models.config_files import check_network_config

HARMLESS = "position_ids"
"""Old versions of transformers stored these: they are the numbers from 0 on, and no weights."""
LIBRARIES = ("diffusers", "transformers", "xpsr_sdk")
"""Where the classes of networks come from, beside plug-ins."""


def load_network(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A network of diffusers or transformers, in evaluation mode on the CPU.

    Args:
        cls: Its class.
        folder: With ``config.json`` and safetensors files; pickled weights are never read.
        dtype: Its precision.

    Raises:
        CheckpointError: A file is missing or damaged, or a tensor is missing, unknown or of another shape.
    """
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder / 'config.json'} does not exist: a model folder needs it.")
    check_network_config(read_json(folder / "config.json", CheckpointError), folder / "config.json")
    _check_files(folder)
    named = {"torch_dtype": dtype} if issubclass(cls, ModelMixin) else {"dtype": dtype}
    try:
        network, found = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **named
        )
    except (XPSRError, MemoryError):
        raise
    except Exception as error:  # the libraries check little, so that what is damaged fails anywhere
        raise CheckpointError(f"{folder} is damaged or no {cls.__name__}: {one_line(error)}") from error
    check_loaded(found, str(folder))
    return network.eval()


def check_loaded(found: Mapping[str, Any], where: str) -> None:
    """Raise ``CheckpointError`` unless files and network had the same tensors.

    Args:
        found: What ``from_pretrained(..., output_loading_info=True)`` of diffusers or transformers gives.
        where: What the message calls the files.
    """
    wrong = [f"{name} is missing" for name in sorted(found.get("missing_keys") or ())]
    extra = (name for name in found.get("unexpected_keys") or () if not name.endswith(HARMLESS))
    wrong += [f"{name} is not part of the network" for name in sorted(extra)]
    wrong += [f"{each[0]} has another shape" for each in found.get("mismatched_keys") or ()]
    if wrong:
        more = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{where} does not hold the weights that its config.json describes: {wrong[0]}{more}.")


def class_in_index(entry: object, where: str) -> Any:
    """The class that an entry of ``model_index.json`` names as library and name.

    Raises:
        CheckpointError: It is none of the libraries' networks.
    """
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(name, str) for name in entry):
        library, name = entry
        is_known = library in sys.modules or library.partition(".")[0] in LIBRARIES  # a plug-in is imported by now
        if is_known and name.isidentifier():
            try:
                found = getattr(import_module(library), name, None)
            except ImportError:
                found = None
            if isinstance(found, type) and hasattr(found, "from_pretrained"):
                return found
    raise CheckpointError(f"{where} names no network of {', '.join(LIBRARIES)}: {entry!r}.")


def _check_files(folder: Path) -> None:
    """That there are safetensors files, which lie in the folder, and are files."""
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    for index in indexes:
        shards = read_json(index, CheckpointError).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise CheckpointError(f"{index} is damaged: weight_map must name a file for each tensor.")
        for name in sorted(set(shards.values())):
            if Path(name).name != name or "\\" in name:
                raise CheckpointError(f"{index} is refused: it names a file outside of its folder, {name!r}.")
    weights = sorted(folder.glob("*.safetensors"))
    for file in weights:
        check_regular(file, CheckpointError)
    if not weights:
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        hint = f": {pickled[0]} is pickled, and pickled code could do anything" if pickled else ""
        raise CheckpointError(f"{folder} holds no safetensors file{hint}.")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} holds an adapter (adapter_config.json): a model folder holds whole networks.")
